"""Typed wordings: what a volume shows is held against what its report names, and no text leaves the volumes' folder."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from scripts.common.problems import UserError
from scripts.data.datalists import SEQUENCES
from scripts.data.grid import GRIDS
from scripts.data.nifti import save_nifti
from scripts.evaluation.adherence import look_at
from scripts.phantom.imaging import make_case
from scripts.showcase import wordings

SECRET = "a wording that nobody else has"


def report(number: int, kind: str, **changes: object) -> dict:
    """What a phantom's report would name."""
    findings = make_case(number, GRIDS["demo"]).findings
    lesion = next(iter(findings.lesions), None)
    told = lesion and {
        "zone": lesion.zone, "side": lesion.side, "level": lesion.level,
        "pirads": lesion.pirads, "size_mm": lesion.diameter_mm,
    }  # fmt: skip
    told = told and told | changes
    return {"id": f"typed_{number}", "text": SECRET, "lesion": told, "pirads": findings.pirads, "set": kind}


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Reports of phantoms, and a generator that draws just these phantoms."""
    reports = [report(5, "choose"), report(3, "choose"), report(4, "choose", side="left"), report(6, "judge")]
    (tmp_path / "typed.json").write_text(json.dumps(reports))

    def generate(stages, folder):
        for entry in json.loads((folder / "data" / "test.json").read_text()):
            case = make_case(int(entry["folder"].removeprefix("typed_")), GRIDS["demo"])
            for name, volume in case.volumes.items():
                save_nifti(folder / "volumes" / entry["folder"] / f"{name}.nii.gz", volume, case.affine)

    monkeypatch.setattr(wordings, "run_stages", generate)
    return tmp_path / "typed.json"


def test_shares_are_of_the_reports_of_one_set_by_all_that_a_volume_shows(typed, tmp_path, capsys, monkeypatch):
    looked_at = []
    monkeypatch.setattr(wordings, "look_at", lambda paths: looked_at.append([*paths]) or look_at(paths))
    assert make_case(4, GRIDS["demo"]).findings.lesions[0].side == "right"  # which the report has wrong
    wordings.wordings(str(typed), "choose", str(tmp_path / "out"))
    rows = pd.read_csv(tmp_path / "out" / "choose.csv").set_index("id")["all"]
    assert looked_at == 3 * [list(SEQUENCES)]
    assert rows.to_dict() == {"typed_5": True, "typed_3": True, "typed_4": False}
    told = capsys.readouterr().out
    assert "0.667" in told
    assert SECRET not in told + (tmp_path / "out" / "choose.csv").read_text()


@pytest.mark.parametrize(("part", "what"), [("all", "none of the set"), ("", "none of the set")])
def test_a_set_that_is_not_there_is_told(typed, part, what):
    with pytest.raises(UserError, match=what):
        wordings.read_typed(str(typed), part)


@pytest.mark.parametrize("content", ["[", '{"a": 1}', "[1]"])
def test_another_file_is_told(tmp_path, content):
    (tmp_path / "typed.json").write_text(content)
    with pytest.raises(UserError, match="cannot be read"):
        wordings.read_typed(str(tmp_path / "typed.json"), "choose")


def test_the_command_has_options_that_exist_and_makes_all_sequences(
    typed, tmp_path, monkeypatch, wrong_options, values_of
):
    commands = []
    monkeypatch.setattr(wordings, "run_stages", lambda stages, folder: commands.extend(stages) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        wordings.wordings(str(typed), "judge", str(tmp_path / "out"))
    assert wrong_options(commands[0].command) == ""
    assert values_of(commands[0].command)["channels"] == list(SEQUENCES)

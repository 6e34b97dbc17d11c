"""The comparison of guidance: what its commands are, and the table that it makes of what they leave."""

from __future__ import annotations

import json

import pytest

from scripts.common.problems import UserError
from scripts.data.datalists import SEQUENCES
from scripts.showcase.guidance import SETTINGS, guidance, key, stages, title


def test_every_option_exists_and_no_two_settings_share_a_folder(tmp_path, wrong_options):
    worse = {"guidance_report": 2, "guidance_model": str(tmp_path / "worse.safetensors")}
    (tmp_path / "worse.safetensors").touch()
    chain = stages(tmp_path / "data", tmp_path, [*SETTINGS, worse])
    assert [told for stage in chain if (told := wrong_options(stage.command))] == []
    reads = {stage.name: stage.reads for stage in chain}
    assert tmp_path / "worse.safetensors" in reads[f"generate_{key(worse)}"]  # another file of that name: done anew
    folders = [stage.makes for stage in chain if stage.makes]
    assert len(set(folders)) == len(folders) == len(SETTINGS) + 2


def test_everything_is_made_of_all_sequences_so_that_the_analyser_sees_them(tmp_path, values_of):
    chain = {stage.name: values_of(stage.command) for stage in stages(tmp_path / "data", tmp_path, SETTINGS)}
    assert chain["reconstruct"]["sequences"] == list(SEQUENCES)
    made = [values["channels"] for name, values in chain.items() if name.startswith("generate_")]
    assert made == [list(SEQUENCES)] * len(SETTINGS)
    judges = [values for name, values in chain.items() if name.startswith("judge_")]
    assert {values["reconstructed_dir"] for values in judges} == {chain["reconstruct"]["output_dir"]}


def test_the_table_has_a_row_for_each_setting(tmp_path, monkeypatch, capsys):
    settings = [{"guidance_report": 1}, {"guidance_report": 4, "guidance_rescale": 0.5}]
    (tmp_path / "mine.json").write_text(json.dumps(settings))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lesions.csv").touch()
    monkeypatch.setattr("scripts.showcase.guidance.run_stages", lambda chain, folder: None)
    for number, setting in enumerate(settings):
        figure = {"value": number + 0.25, "low": 0.0, "high": 1.0, "n": 9}
        kinds, rows = {"frechet": figure, "kernel": figure}, ("generated", "real train", "reconstructed test")
        judged = {
            "distances": {f"phantom: {row} to real test": kinds for row in rows},
            "adherence": {
                row: {"all": figure} for row in ("generated", "real (the analyser's own accuracy)", "reconstructed")
            },
            "measures": {row: {"diameter_error_mm": figure} for row in ("generated", "real", "reconstructed")},
        }
        folder = tmp_path / "out" / "judged" / key(setting)
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(judged))
    guidance(str(tmp_path / "data"), str(tmp_path / "out"), str(tmp_path / "mine.json"))
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "guidance.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in printed.splitlines()}
    assert {"real training volumes", "reconstructions of the test volumes", "report 1"} <= rows.keys()
    assert title(settings[1]) == "report 4, rescale 0.5"
    assert "1.25 (0 to 1)" in rows["report 4, rescale 0.5"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "[3]"])
def test_settings_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match="settings"):
        guidance(str(tmp_path), str(tmp_path / "out"), str(tmp_path / "mine.json"))


def test_volumes_without_known_truth_are_refused(tmp_path):
    with pytest.raises(UserError, match="phantoms"):
        guidance(str(tmp_path), str(tmp_path / "out"))

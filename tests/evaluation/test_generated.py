"""Which generated volumes are judged, and that everything that is wrong with any volume is told before one is."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.bundle import ConfigWorkflow

from scripts.common.problems import UserError
from scripts.data.clinical import write_clinical
from scripts.data.datalists import one_hot, write_datalist
from scripts.evaluation.features import phantom
from scripts.evaluation.generated import evaluate, extract, read_volumes

SPACING = (1.25, 1.25, 1.875)
SECRET = "Lesion in the left apex, about 12 mm, abutting the capsule"
SHORT = "Zorv quil mexi bantu"  # a report as short as a name, of words that stand nowhere else


def write(root, folder, shape=(8, 8, 8), spacing=SPACING, values=None):
    (root / folder).mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 900, shape) if values is None else np.broadcast_to(values, shape)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([*spacing, 1])), root / folder / "axt2.nii.gz")


@pytest.fixture
def root(tmp_path) -> Path:
    """Real cases a to d, c and d to test on, and a volume generated for each."""
    for place in ("real", "generated"):
        for name in "abcd":
            write(tmp_path / place, name)
    real = tmp_path / "real"
    for split, names in (("train", "ab"), ("test", "cd")):
        cases = [
            {
                "axt2": f"./{name}/axt2.nii.gz", "folder": name, "pirads": one_hot(name in "bd"),
                "spacing": SPACING, "text": SECRET, "text_isnull": 0,
            }
            for name in names
        ]  # fmt: skip
        write_datalist(real / f"{split}.json", cases)
    sheet = pd.DataFrame({"folder": [*"abcd"], "PosPIRADS": [0, 1, 0, 1], "PosISUP": None, "Label": "train"})
    write_clinical(real / "clinical.xlsx", sheet)
    write_sheet(tmp_path)
    return tmp_path


def write_sheet(root, *extra: str) -> None:
    sheet = pd.DataFrame({"folder": [*"abcd", *extra], "PIRADS_synth": 1})
    sheet.to_excel(root / "generated" / "synthsheet_all.xlsx", index=False)


def read(root):
    return read_volumes(root / "real", root / "generated", "axt2")


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def test_volumes_are_joined_with_their_real_cases(root):
    _, _, generated = read(root)
    assert [(g.folder, g.case["folder"], g.is_test) for g in generated] == [(n, n, n in "cd") for n in "abcd"]


@pytest.mark.parametrize("rows", ["abcd", "cd"])
def test_costly_features_are_computed_of_test_volumes_only_and_copies_found_among_all(root, monkeypatch, rows):
    sheet = pd.DataFrame({"folder": [*rows], "PIRADS_synth": 1})
    sheet.to_excel(root / "generated" / "synthsheet_all.xlsx", index=False)
    for number, name in enumerate("abcd"):
        for place in ("real", "generated"):
            write(root / place, name, values=np.random.default_rng(number).random((8, 8, 8)))
    runs = []

    def costly(volume):
        runs.append(volume)
        return volume.flatten(1)[:, :6].reshape(3, 2)

    monkeypatch.setattr(
        "scripts.evaluation.generated.make_extractors", lambda *_: {"phantom": phantom(), "costly": costly}
    )
    result = evaluate(root / "real", root / "generated", root / "out")
    assert len(runs) == 2 + 2 + 2  # real training, real test, and generated test volumes
    # The generated volumes are the real ones.
    assert result["distances"]["costly: generated to real test"]["frechet"]["value"] == pytest.approx(0, abs=1e-9)
    copies = pd.read_csv(root / "out" / "copies.csv")
    assert sorted(copies["folder"]) == [*rows]
    near = copies[copies["distance"] < 1e-6]
    assert dict(zip(near["folder"], near["nearest"], strict=True)) == {name: name for name in rows if name in "ab"}


def test_everything_wrong_is_told_in_one_table_before_features_are_computed(root, repo_root, monkeypatch):
    """As `monai.bundle run` does it: real and generated volumes, tables, headers and voxels."""
    real, generated = root / "real", root / "generated"
    (real / "a" / "axt2.nii.gz").unlink()
    write(real, "b", values=np.nan)
    truncate(real / "c" / "axt2.nii.gz")
    write(real, "d", shape=(8, 8, 4))
    write(generated, "a", values=np.nan)
    write(generated, "b", spacing=(1, 1, 1))
    truncate(generated / "c" / "axt2.nii.gz")
    (generated / "d" / "axt2.nii.gz").unlink()
    monkeypatch.setattr("scripts.evaluation.generated.make_extractors", lambda *_: pytest.fail("an extractor is made"))
    config = repo_root / "bundles" / "ccella_ldm" / "configs" / "evaluate.yaml"
    workflow = ConfigWorkflow(
        str(config), workflow_type="infer", logging_file=False, bundle_root=str(config.parents[1]),
        dataset_dir=str(real), generated_dir=str(generated), output_dir=str(root / "out"),
    )  # fmt: skip
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:  # MONAI wraps what a component raises
        workflow.run()
    error = caught.value
    while error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, UserError)
    message = " ".join(str(error).split())
    for words in (
        "a axt2 (axt2.nii.gz) is missing",
        "b/axt2 contains NaN",
        "c an image cannot be read",
        "d has size 8×8×4, the others 8×8×8",
        "generated a/axt2 contains NaN",
        "generated b has spacing 1×1×1 mm, the real case 1.25×1.25×1.875",
        "generated c an image cannot be read",
        "generated d axt2.nii.gz is missing",
    ):
        assert words in message, message
    assert message.startswith("volumes to judge: 8 problems")
    assert SECRET not in message
    assert not (root / "out").exists()


def test_generated_volumes_that_show_nothing_are_judged_and_told(root, caplog):
    write(root / "generated", "a", values=7)
    read(root)
    made = extract({"phantom": phantom()}, [("a", str(root / "generated" / "a" / "axt2.nii.gz"))], "axt2", "volumes")
    assert made["phantom"].isfinite().all()
    assert "volumes: 1 show nothing" in caplog.text


def test_a_generated_volume_of_another_size_is_refused(root):
    write(root / "generated", "c", shape=(8, 8, 4))
    (root / "generated" / "d" / "axt2.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"(?s)generated c +has size 8×8×4, the real case 8×8×8.*generated d .*NIfTI"):
        read(root)


def test_the_axes_may_run_in_any_order_and_the_volume_lie_anywhere(root):
    path = root / "generated" / "c" / "axt2.nii.gz"
    image = nib.Nifti1Image(np.random.default_rng(1).random((8, 8, 8)), np.diag([*SPACING, 1]) + 50 * np.eye(4, k=3))
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt(("S", "L", "P"))), path)
    assert len(read(root)[2]) == 4


def test_wrong_rows_of_the_sheet_are_told_without_quoting_cells(root):
    write_sheet(root, "a", "stranger", SHORT, SECRET + "/")
    with pytest.raises(UserError) as caught:
        read(root)
    message = " ".join(str(caught.value).split())
    for words in (
        "generated a has another row in synthsheet_all.xlsx, row 6",
        "stranger was made from no report of dataset_dir",
        "synthsheet_all.xlsx row 8 was made from no report of dataset_dir",
        "synthsheet_all.xlsx row 9 folder text of 59 characters is not a folder's name",
    ):
        assert words in message, message
    assert not [word for word in [SECRET, *SHORT.split()] if word in message]


def test_a_folder_that_is_no_output_of_inference_is_refused(root):
    with pytest.raises(UserError, match=r"holds no synthsheet_all\.xlsx"):
        read_volumes(root / "real", root, "axt2")

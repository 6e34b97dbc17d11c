"""Which volumes are judged, and that everything that is wrong with any of them is told before one is."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from judged_root import SECRET, SHORT, SPACING, write, write_sheet
from records import write_record
from scripts.common.problems import UserError
from scripts.evaluation.volumes import read_volumes


def read(root):
    return read_volumes(root / "real", root / "generated", "axt2")


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def test_volumes_are_joined_with_their_real_cases(root):
    generated = read(root).generated
    assert [(g.folder, g.case["folder"], g.is_test) for g in generated] == [(n, n, n in "cd") for n in "abcd"]


def test_volumes_of_reports_without_images_are_left_out(root):
    write(root / "generated", "r1")
    write_record(root / "generated", "r1", "r1", "reports")
    write_sheet(root, "r1")
    assert [volume.folder for volume in read(root).generated] == [*"abcd"]


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


def test_a_generated_volume_of_another_size_is_refused(root):
    write(root / "generated", "c", shape=(8, 8, 4))
    (root / "generated" / "d" / "axt2.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"(?s)generated c +has size 8×8×4, the real case 8×8×8.*generated d .*NIfTI"):
        read(root)


def test_the_axes_may_run_in_any_order_and_the_volume_lie_anywhere(root):
    path = root / "generated" / "c" / "axt2.nii.gz"
    image = nib.Nifti1Image(np.random.default_rng(1).random((8, 8, 8)), np.diag([*SPACING, 1]) + 50 * np.eye(4, k=3))
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt(("S", "L", "P"))), path)
    assert len(read(root).generated) == 4


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


def test_reconstructions_of_all_test_cases_on_their_grids_are_judged_too(root):
    again = root / "reconstructed"
    shutil.copytree(root / "real", again)
    found = read_volumes(root / "real", root / "generated", "axt2", again)
    assert [(r.folder, r.image) for r in found.reconstructed] == [(n, str(again / n / "axt2.nii.gz")) for n in "cd"]
    assert read(root).reconstructed == []
    write(again, "c", shape=(8, 8, 4))
    (again / "d" / "axt2.nii.gz").unlink()
    with pytest.raises(
        UserError, match=r"(?s)reconstructed c +has size 8×8×4.*reconstructed d +axt2.nii.gz is missing"
    ):
        read_volumes(root / "real", root / "generated", "axt2", again)


def test_a_volume_knows_the_sequences_beside_it_that_can_be_read(root):
    place = root / "generated" / "c"
    shutil.copy(place / "axt2.nii.gz", place / "adc.nii.gz")
    (place / "b1600.nii.gz").touch()
    found = {volume.folder: sorted(volume.sequences()) for volume in read(root).generated}
    assert found["c"] == ["adc", "axt2"]
    assert found["d"] == ["axt2"]


def test_a_broken_sequence_beside_is_told_with_the_rest(root):
    """The analyser looks at it, long after features were computed."""
    place = root / "generated" / "c"
    whole = (place / "axt2.nii.gz").read_bytes()
    write(root / "generated", "c", values=np.nan)
    (place / "axt2.nii.gz").rename(place / "adc.nii.gz")
    (place / "axt2.nii.gz").write_bytes(whole)
    with pytest.raises(UserError, match=r"c/adc +contains NaN"):
        read(root)

"""The real exam, all the way: prepare -> reconstruct with the demo's VAE -> a generated volume next to it.

The files lie in the same place of the patient when they are opened side by side: same axes, same spacing, same corners
in the world, and the same world points as the scanner's own image. Skipped where ../shared/data is absent.
"""

from __future__ import annotations

import importlib.util
import itertools

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import create_workflow

from scripts.prepare import prepare

EXAM = "ProstateX-0000"


@pytest.fixture(scope="module")
def root(repo_root, tmp_path_factory):
    """A data root with the exam on the demo grid."""
    source = repo_root.parent / "shared" / "data"
    if not (source / EXAM).is_dir() or importlib.util.find_spec("itk") is None:
        pytest.skip("needs ../shared/data/ProstateX-0000 and the extra [readers]")
    folder = tmp_path_factory.mktemp("real")
    (folder / "exam.csv").write_text(f'folder,report,pirads\n{EXAM},"12 mm lesion, right peripheral zone, apex.",4\n')
    prepare(
        str(folder / "exam.csv"),
        str(source),
        str(folder / "data"),
        t2w="*_t2w.mha",
        grid="demo",
        pirads_column="pirads",
    )
    return folder / "data"


def run_bundle(repo_root, name, config, **values):
    """Run a bundle's config with its demo overlay, as the Python API does."""
    folder = repo_root / "bundles" / name
    files = [str(folder / "configs" / f"{part}.yaml") for part in (config, "demo")]
    workflow = create_workflow(config_file=files, workflow_type="infer", bundle_root=str(folder), **values)
    workflow.run()
    workflow.finalize()


def corners(image):
    """The world points (8, 3) of the corners of a NIfTI image's field of view, in mm."""
    ends = itertools.product(*((-0.5, n - 0.5) for n in image.shape))
    return nib.affines.apply_affine(image.affine, list(ends))


def test_reconstruction_and_generated_volume_lie_where_the_exam_lies(repo_root, root, tmp_path):
    run_bundle(
        repo_root, "vae", "inference", dataset_dir=str(root), datalists=["train.json"], mode="reconstruct",
        output_dir=str(tmp_path / "vae"),
    )  # fmt: skip
    run_bundle(
        repo_root, "ccella_ldm", "inference", dataset_dir=str(root), splits=["train"], steps=2,
        output_dir=str(tmp_path / "ldm"),
    )  # fmt: skip

    exam = nib.load(root / EXAM / "axt2.nii.gz")
    for folder in ("vae", "ldm"):
        image = nib.load(tmp_path / folder / EXAM / "axt2.nii.gz")
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.shape == (64, 64, 32)
        np.testing.assert_allclose(image.header.get_zooms(), (1.25, 1.25, 1.875), atol=1e-5)
        np.testing.assert_allclose(corners(image), corners(exam), atol=1e-3)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert int(image.header["qform_code"]) > 0
        assert int(image.header["sform_code"]) > 0
    made = nib.load(tmp_path / "vae" / EXAM / "axt2.nii.gz").get_fdata()
    assert np.corrcoef(made.ravel(), exam.get_fdata().ravel())[0, 1] > 0.8

"""The real exam, all the way: prepare -> encode -> reconstruct with the demo's VAE -> a generated volume next to it.

Where a voxel lies is asked of ITK, which knows nothing of this project's affines: at the same points of the patient the
scanner's own image and ours must show the same. Skipped where ../shared/data or ITK is absent.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import create_workflow
from monai.utils import optional_import
from scipy.ndimage import map_coordinates

from scripts.data.datalists import read_datalist
from scripts.data.grid import GRIDS
from scripts.data.latents import find_latent, read_latent
from scripts.prepare import prepare

itk, has_itk = optional_import("itk")

EXAM = "ProstateX-0000"
SOURCES = {"axt2": "t2w", "adc": "adc", "b1600": "hbv"}
# The finding that the PROSTATEx challenge published for this exam: peripheral zone, clinically significant (LPS, mm).
FINDING = np.array([25.7457, 31.8707, -38.511])


@pytest.fixture(scope="module")
def source(repo_root) -> Path:
    """The folder with the exam's folder."""
    folder = repo_root.parent / "shared" / "data"
    if not (folder / EXAM).is_dir() or not has_itk:
        pytest.skip("needs ../shared/data/ProstateX-0000 and the extra [readers]")
    return folder


def prepared(source: Path, place: Path, grid: str) -> Path:
    """A data root in `place` with the exam on a grid."""
    (place / "exam.csv").write_text(f'folder,report,pirads\n{EXAM},"12 mm lesion, right peripheral zone, apex.",4\n')
    patterns = {"t2w": "*_t2w.mha", "adc": "*_adc.mha", "dwi": "*_hbv.mha"}
    prepare(str(place / "exam.csv"), str(source), str(place / "data"), grid=grid, pirads_column="pirads", **patterns)
    return place / "data"


@pytest.fixture(scope="module")
def root(source, tmp_path_factory) -> Path:
    """A data root with the exam on the demo grid."""
    return prepared(source, tmp_path_factory.mktemp("real"), "demo")


@pytest.fixture(scope="module")
def original(source) -> dict[str, itk.Image]:
    """The scanner's images as ITK reads them."""
    return {key: itk.imread(str(source / EXAM / f"{EXAM}_{name}.mha")) for key, name in SOURCES.items()}


def run_bundle(repo_root, name, config, **values):
    """Run a bundle's config with its demo overlay, as the Python API does."""
    folder = repo_root / "bundles" / name
    files = [str(folder / "configs" / f"{part}.yaml") for part in (config, "demo")]
    workflow = create_workflow(config_file=files, workflow_type="infer", bundle_root=str(folder), **values)
    workflow.run()
    workflow.finalize()


@pytest.fixture(scope="module")
def reconstructed(repo_root, root, tmp_path_factory) -> Path:
    """What the vae bundle makes of all three sequences: `latents/` and `images/`."""
    out = tmp_path_factory.mktemp("vae")
    values = {"dataset_dir": str(root), "datalists": ["train.json"], "sequences": list(SOURCES)}
    values |= {"latent_dir": str(out / "latents"), "output_dir": str(out / "images")}
    for mode in ("encode", "reconstruct"):
        run_bundle(repo_root, "vae", "inference", mode=mode, **values)
    return out


# ---- comparisons -----------------------------------------------------------------------------------------------------


def at_random_points(image, original, moved=(0, 0, 0)):
    """Our image, moved by some voxels, and ITK's view of the original, at the same 5,000 points of the patient."""
    points = np.random.default_rng(0).uniform(2, np.asarray(image.shape) - 3, (5000, 3))
    world = nib.affines.apply_affine(image.affine, points) * (-1, -1, 1)
    index = np.array([list(original.TransformPhysicalPointToContinuousIndex(list(point))) for point in world])
    scanner = np.asarray(original).T.astype(float)
    seen = ((index >= 0) & (index <= np.asarray(scanner.shape) - 1)).all(axis=1)
    got, expected = (
        map_coordinates(values, where[seen].T, order=1)
        for values, where in ((image.get_fdata(), points + moved), (scanner, index))
    )
    return got, expected


def agreement(image, original, moved=(0, 0, 0)):
    """Correlation of our image with the scanner's."""
    got, expected = at_random_points(image, original, moved)
    assert len(got) > 1000
    return np.corrcoef(got, expected)[0, 1]


def finding_against_mirror(image):
    """Mean around the published finding over the mean on the other side: 6 mm wide, left and right told apart."""
    voxel = nib.affines.apply_affine(np.linalg.inv(image.affine), FINDING * (-1, -1, 1))
    values = image.get_fdata()
    offsets = np.stack(np.meshgrid(*[np.linspace(-3, 3, 7)] * 3), axis=-1).reshape(-1, 3) / image.header.get_zooms()
    mirror = voxel * (-1, 1, 1) + (image.shape[0] - 1, 0, 0)
    here, there = (map_coordinates(values, (centre + offsets).T, order=1).mean() for centre in (voxel, mirror))
    return here / there


def world_points(image):
    """World points (28, 3) in mm: the corners of the field of view and twenty voxels inside it."""
    corners = list(itertools.product(*((-0.5, n - 0.5) for n in image.shape)))
    inside = np.random.default_rng(1).uniform(0, np.asarray(image.shape) - 1, (20, 3))
    return nib.affines.apply_affine(image.affine, [*corners, *inside])


def check_grid(image, grid, scanner):
    """Size, spacing, field of view and units are the declared ones; the axes are those of the scanner's T2w."""
    assert image.shape == grid.size
    np.testing.assert_allclose(image.header.get_zooms(), grid.spacing, atol=1e-5)
    first, *others = (world_points(image)[corner] for corner in (0, 4, 2, 1))  # a step of each axis from one corner
    np.testing.assert_allclose([np.linalg.norm(other - first) for other in others], grid.extent, atol=1e-3)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_xyzt_units()[0] == "mm"
    assert int(image.header["qform_code"]) > 0
    assert int(image.header["sform_code"]) > 0
    np.testing.assert_allclose(image.get_qform(), image.affine, atol=1e-3)
    directions = np.asarray(scanner.GetDirection()) * np.array([[-1], [-1], [1]])  # columns, from LPS to RAS
    ours = image.affine[:3, :3] / grid.spacing
    np.testing.assert_allclose(np.abs(directions.T @ ours).max(axis=0), 1, atol=1e-4)


# ---- prepare ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", ["reference", "demo"])
def test_the_oblique_exam_keeps_every_world_point(source, root, original, tmp_path, grid):
    place = root if grid == "demo" else prepared(source, tmp_path, grid)
    brighter = {}
    for sequence, scanner in original.items():
        image = nib.load(place / EXAM / f"{sequence}.nii.gz")
        check_grid(image, GRIDS[grid], original["axt2"])
        # On the demo grid the T2w is smoothed before it shrinks by 2.5, which costs correlation.
        assert agreement(image, scanner) > (0.98 if grid == "demo" else 0.999)
        brighter[sequence] = finding_against_mirror(image)
    assert brighter["axt2"] < 0.9
    assert brighter["adc"] < 0.97
    assert brighter["b1600"] > 1.2


# ---- encode and reconstruct ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", SOURCES)
def test_a_reconstruction_shows_the_scanners_image_where_it_lies(root, reconstructed, original, sequence):
    exam = nib.load(root / EXAM / f"{sequence}.nii.gz")
    made = nib.load(reconstructed / "images" / EXAM / f"{sequence}.nii.gz")
    check_grid(made, GRIDS["demo"], original["axt2"])
    np.testing.assert_allclose(world_points(made), world_points(exam), atol=1e-3)
    here = agreement(made, original[sequence])
    assert here > 0.9
    # Moved by two voxels along any axis, either way, it agrees less.
    moves = [sign * step for step in 2 * np.eye(3) for sign in (1, -1)]
    assert max(agreement(made, original[sequence], move) for move in moves) < here - 0.02


def test_the_reconstructed_finding_is_on_the_side_where_it_was_published(reconstructed):
    images = {key: nib.load(reconstructed / "images" / EXAM / f"{key}.nii.gz") for key in SOURCES}
    ratios = {key: finding_against_mirror(image) for key, image in images.items()}
    assert ratios["axt2"] < 0.95
    assert ratios["adc"] < 0.99  # 0.975; on the other side it would be 1.026
    assert ratios["b1600"] > 1.1


@pytest.mark.parametrize("sequence", SOURCES)
def test_a_latent_knows_where_its_image_lies(root, reconstructed, sequence):
    latent = read_latent(find_latent(reconstructed / "latents", EXAM, sequence))
    np.testing.assert_allclose(latent.affine, nib.load(root / EXAM / f"{sequence}.nii.gz").affine, atol=1e-5)
    assert latent.shape == GRIDS["demo"].size
    np.testing.assert_allclose(latent.spacing, GRIDS["demo"].spacing, atol=1e-5)


# ---- a generated volume ----------------------------------------------------------------------------------------------


def test_a_volume_generated_next_to_the_exam_lies_where_the_exam_lies(repo_root, root, original, tmp_path):
    run_bundle(
        repo_root, "ccella_ldm", "inference", dataset_dir=str(root), splits=["train"], steps=2,
        output_dir=str(tmp_path),
    )  # fmt: skip
    made = nib.load(tmp_path / EXAM / "axt2.nii.gz")
    check_grid(made, GRIDS["demo"], original["axt2"])
    np.testing.assert_allclose(world_points(made), world_points(nib.load(root / EXAM / "axt2.nii.gz")), atol=1e-3)
    assert read_datalist(tmp_path / "train.json", tmp_path)[0]["spacing"] == list(GRIDS["demo"].spacing)

"""The analyser: right on phantoms it has never seen, and on ones that a network has smoothed or rescaled."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from scripts.common.problems import UserError
from scripts.data.grid import GRIDS, Grid, grid_affine
from scripts.data.nifti import save_nifti
from scripts.phantom.__main__ import analyse as analyse_command
from scripts.phantom.__main__ import make
from scripts.phantom.analyser import agrees, analyse, analyse_file
from scripts.phantom.anatomy import sample_findings
from scripts.phantom.imaging import make_case

SEEDS = range(700_000, 700_040)


def index_lesion(phantom):
    return next(iter(phantom.findings.lesions), None)


@pytest.fixture(scope="module")
def phantoms():
    return [make_case(seed, GRIDS["demo"]) for seed in SEEDS]


@pytest.fixture(scope="module")
def analyses(phantoms):
    return [analyse(phantom.volumes["axt2"], phantom.affine) for phantom in phantoms]


def test_presence_and_place_are_right(phantoms, analyses):
    rows = [agrees(seen, index_lesion(phantom)) for phantom, seen in zip(phantoms, analyses, strict=True)]
    assert np.mean([row["presence"] for row in rows]) >= 0.97
    assert np.mean([row["all"] for row in rows]) >= 0.97


def test_sizes_are_right(phantoms, analyses):
    ratio = [seen.gland_ml / phantom.findings.gland_ml for phantom, seen in zip(phantoms, analyses, strict=True)]
    assert np.abs(np.array(ratio) - 1).mean() < 0.06
    pairs = [(seen, index_lesion(phantom)) for phantom, seen in zip(phantoms, analyses, strict=True)]
    errors = [seen.diameter_mm - lesion.diameter_mm for seen, lesion in pairs if lesion]
    assert np.abs(errors).mean() < 1.5
    away = [np.linalg.norm(np.subtract(seen.centre_mm, lesion.centre_mm)) for seen, lesion in pairs if lesion]
    assert np.median(away) < 1.5


def test_a_lesion_is_dark_on_t2w_and_adc_and_bright_on_high_b(phantoms):
    """Relative to its zone; nothing is said of what was not given or not seen."""
    phantom = next(filter(index_lesion, phantoms))
    healthy = next(phantom for phantom in phantoms if not index_lesion(phantom))
    volumes = phantom.volumes
    seen = analyse(volumes["axt2"], phantom.affine, volumes["b1600"], volumes["adc"])
    assert seen.contrast["axt2"] < 0.7
    assert seen.contrast["adc"] < 0.9
    assert seen.contrast["b1600"] > 1.3
    assert set(analyse(volumes["axt2"], phantom.affine).contrast) == {"axt2"}
    assert analyse(healthy.volumes["axt2"], healthy.affine).contrast == {}


def test_a_smoothed_transition_zone_has_fainter_nodules(phantoms, analyses):
    faint = [analyse(gaussian_filter(p.volumes["axt2"].astype(np.float32), 2.0), p.affine) for p in phantoms[:8]]
    sharp = np.mean([seen.nodules * np.nan_to_num(seen.nodule_contrast) for seen in analyses[:8]])
    assert np.mean([seen.nodules * np.nan_to_num(seen.nodule_contrast) for seen in faint]) < 0.8 * sharp


def test_smooth_volumes_are_read_too(phantoms):
    rows = []
    for phantom in phantoms:
        blurred = gaussian_filter(phantom.volumes["axt2"].astype(np.float32), 1.0)
        rows.append(agrees(analyse(blurred, phantom.affine), index_lesion(phantom)))
    assert np.mean([row["all"] for row in rows]) >= 0.95


@pytest.mark.parametrize(("scale", "offset"), [(1 / 962, 0.0), (3.0, 40.0)])
def test_grey_scale_does_not_matter(phantoms, analyses, scale, offset):
    for phantom, seen in list(zip(phantoms, analyses, strict=True))[:4]:
        again = analyse(phantom.volumes["axt2"] * scale + offset, phantom.affine)
        assert (again.lesion, again.zone, again.side, again.level) == (seen.lesion, seen.zone, seen.side, seen.level)
        assert again.score == pytest.approx(seen.score, abs=0.02)


def test_another_grid_gives_the_same_answer():
    seed = next(seed for seed in SEEDS if sample_findings(seed).lesions)
    phantom = make_case(seed, Grid((128, 112, 64), (0.75, 0.75, 1.0)))
    assert agrees(analyse(phantom.volumes["axt2"], phantom.affine), index_lesion(phantom))["all"]


def test_a_mirrored_volume_has_its_lesion_on_the_other_side(phantoms, analyses):
    phantom, seen = next(pair for pair in zip(phantoms, analyses, strict=True) if pair[1].lesion)
    mirrored = analyse(phantom.volumes["axt2"][::-1], phantom.affine)
    assert {seen.side, mirrored.side} == {"left", "right"}
    assert (mirrored.zone, mirrored.level) == (seen.zone, seen.level)


def test_orientation_of_a_file_does_not_matter(phantoms, analyses, tmp_path):
    phantom, seen = next(pair for pair in zip(phantoms, analyses, strict=True) if pair[1].lesion)
    save_nifti(tmp_path / "ras.nii.gz", phantom.volumes["axt2"], phantom.affine)
    image = nib.load(tmp_path / "ras.nii.gz")
    nib.save(image.as_reoriented(np.array([[0, -1], [1, -1], [2, 1]])), tmp_path / "lps.nii.gz")
    assert nib.aff2axcodes(nib.load(tmp_path / "lps.nii.gz").affine) == ("L", "P", "S")
    assert analyse_file(tmp_path / "lps.nii.gz") == analyse_file(tmp_path / "ras.nii.gz")
    assert analyse_file(tmp_path / "ras.nii.gz").side == seen.side


@pytest.mark.parametrize("volume", [np.zeros((8, 8, 8)), np.full((8, 8, 8), np.nan), np.ones((8, 8))])
def test_unusable_volumes_are_refused(volume):
    with pytest.raises(ValueError, match="constant"):
        analyse(volume, np.eye(4))


def test_an_unreadable_file_is_named(tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken\.nii\.gz"):
        analyse_file(tmp_path / "broken.nii.gz")


def test_noise_without_a_gland_still_gives_an_answer():
    noise = np.random.default_rng(0).random(GRIDS["demo"].size)
    assert np.isfinite(analyse(noise, grid_affine(GRIDS["demo"])).score)


def test_a_missed_lesion_is_wrong_in_every_part(analyses, phantoms):
    lesion = next(filter(None, map(index_lesion, phantoms)))
    blind = next(seen for seen in analyses if not seen.lesion)
    assert agrees(blind, lesion) == dict.fromkeys(("presence", "zone", "side", "level", "all"), False)
    assert agrees(blind, None) == {"presence": True, "all": True}


def test_the_command_prints_a_table_and_writes_a_row_a_case(tmp_path, capsys):
    make(str(tmp_path / "data"), cases=5, seed=7, test_fraction=0.4)
    analyse_command(str(tmp_path / "data"), output_csv=str(tmp_path / "seen.csv"))
    printed = capsys.readouterr().out
    assert "presence" in printed
    assert "gland volume" in printed
    assert len((tmp_path / "seen.csv").read_text().splitlines()) == 3

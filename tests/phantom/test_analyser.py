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


def look(phantom, three=False, blur=0.0):
    volumes = {name: gaussian_filter(v.astype(np.float32), blur) for name, v in phantom.volumes.items()}
    return analyse(volumes.pop("axt2"), phantom.affine, **(volumes if three else {}))


def right(phantoms, **kwargs):
    return np.mean([agrees(look(phantom, **kwargs), index_lesion(phantom))["all"] for phantom in phantoms])


@pytest.fixture(scope="module")
def phantoms():
    return [make_case(seed, GRIDS["demo"]) for seed in SEEDS]


@pytest.fixture(scope="module")
def analyses(phantoms):
    return [look(phantom) for phantom in phantoms]


@pytest.fixture(scope="module")
def whole_exams(phantoms):
    return [look(phantom, three=True) for phantom in phantoms]


def test_presence_and_place_are_right(phantoms, analyses, whole_exams):
    for seen in (analyses, whole_exams):
        rows = [agrees(one, index_lesion(phantom)) for phantom, one in zip(phantoms, seen, strict=True)]
        assert np.mean([row["presence"] for row in rows]) >= 0.97
        assert np.mean([row["all"] for row in rows]) >= 0.97


def test_hard_phantoms_are_read_on_t2w_and_better_on_all_three():
    phantoms = [make_case(seed, GRIDS["demo"], difficulty=1.0) for seed in SEEDS]
    assert right(phantoms) >= 0.85
    assert right(phantoms, three=True) >= 0.97


def test_easy_phantoms_are_read_as_before():
    assert right([make_case(seed, GRIDS["demo"], difficulty=0.0) for seed in SEEDS]) >= 0.97


def test_sizes_are_right(phantoms, analyses):
    ratio = [seen.gland_ml / phantom.findings.gland_ml for phantom, seen in zip(phantoms, analyses, strict=True)]
    assert np.abs(np.array(ratio) - 1).mean() < 0.12
    pairs = [(seen, index_lesion(phantom)) for phantom, seen in zip(phantoms, analyses, strict=True)]
    errors = [seen.diameter_mm - lesion.diameter_mm for seen, lesion in pairs if lesion]
    assert np.abs(errors).mean() < 1.5
    away = [np.linalg.norm(np.subtract(seen.centre_mm, lesion.centre_mm)) for seen, lesion in pairs if lesion]
    assert np.median(away) < 1.5


def test_the_contrast_is_that_of_a_lesion(phantoms, whole_exams):
    for phantom, seen in zip(phantoms, whole_exams, strict=True):
        if phantom.findings.pirads == 5:
            assert seen.contrast["axt2"] < 0.5
            assert seen.contrast["adc"] < 0.75
            assert seen.contrast["b1600"] > 1.5
        if not seen.lesion:
            assert seen.contrast == {}


def test_a_fainter_lesion_has_less_contrast(phantoms):
    phantom = next(p for p in phantoms if p.findings.pirads == 5 and p.findings.lesions[0].zone == "PZ")
    inside = phantom.masks["lesions"] == 1
    volume = phantom.volumes["axt2"].astype(float)
    usual = np.median(volume[(phantom.masks["zones"] == 1) & ~inside])
    fainter = np.where(inside, 0.75 * volume + 0.25 * usual, volume)
    contrast = [analyse(v, phantom.affine).contrast["axt2"] for v in (volume, fainter)]
    assert contrast[1] - contrast[0] == pytest.approx(0.25 * (1 - contrast[0]), abs=0.05)


def test_nodules_are_counted_and_vanish_where_they_are_smoothed_away(phantoms, analyses):
    counts = [seen.nodules for seen in analyses]
    assert np.corrcoef(counts, [p.findings.gland_ml for p in phantoms])[0, 1] > 0.7  # larger glands have more
    phantom, seen = next((p, a) for p, a in zip(phantoms, analyses, strict=True) if a.nodules > 8)
    volume = phantom.volumes["axt2"].astype(np.float32)
    inside = (phantom.masks["zones"] == 2) & (phantom.masks["lesions"] == 0)
    flat = analyse(np.where(inside, np.median(volume[inside]), volume), phantom.affine)
    assert flat.nodules < seen.nodules / 2


def test_smooth_volumes_are_read_too(phantoms):
    assert right(phantoms, blur=0.6) >= 0.85
    assert right(phantoms, blur=0.6, three=True) >= 0.95


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

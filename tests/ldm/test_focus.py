"""Learning what is small and what the report decides: weights under a mask, and timesteps moved towards the noise."""

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.common.problems import UserError
from scripts.data.grid import GRIDS
from scripts.ldm.dataset import Focus
from scripts.ldm.loss import JointLoss
from scripts.ldm.objective import NoisyBatch
from scripts.ldm.schedule import make_scheduler, training_timesteps
from scripts.networks.weights import LatentScale
from scripts.phantom.gland import Gland

SPACING = (1.0, 1.0, 1.0)  # of the image, in mm


@pytest.fixture
def folder(tmp_path):
    """A case's folder with a mask of one voxel on an 8×8×8 grid."""
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[5, 2, 7] = 1
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "lesions.nii.gz")
    return tmp_path


def test_a_cell_weighs_more_as_soon_as_the_mask_touches_it(folder):
    weights = Focus("lesions.nii.gz", 20.0).read(folder, (2, 2, 2), SPACING)
    expected = torch.ones(1, 2, 2, 2)
    expected[0, 1, 0, 1] = 20.0
    assert torch.equal(weights, expected)


@pytest.mark.parametrize(("mask", "shape"), [("lesions.nii.gz", (3, 2, 2)), ("gland.nii.gz", (2, 2, 2))])
def test_a_mask_that_is_missing_or_on_another_grid_is_refused(folder, mask, shape):
    with pytest.raises(UserError, match=mask):
        Focus(mask, 20.0).read(folder, shape, SPACING)


@pytest.mark.parametrize("name", ["demo", "reference"])
@pytest.mark.parametrize(
    ("proportions", "centre"),
    [((1.32, 0.90, 0.97), (2.5, 0, 0)), ((1.24, 0.96, 0.97), (0, -2.5, 0)), ((1.24, 0.90, 1.03), (-1.5, 1.5, -1.3))],
)
def test_the_centre_holds_a_large_gland_that_lies_a_little_off_the_middle(tmp_path, name, proportions, centre):
    """Cells whose middle is in the gland weigh more, with no mask to read; the corners of the image do not."""
    grid = GRIDS[name]
    cells = tuple(n // 4 for n in grid.size)
    weights = Focus("centre", 4.0).read(tmp_path, cells, grid.spacing)
    assert weights.shape == (1, *cells)
    steps = np.multiply(grid.spacing, 4)
    points = (np.indices(cells) - (np.reshape(cells, (3, 1, 1, 1)) - 1) / 2) * steps.reshape(3, 1, 1, 1)
    gland = Gland.of_volume(90, proportions, centre)
    inside = gland.distance(*gland.coordinates(*points)) < 0
    assert (weights[0][torch.from_numpy(inside)] == 4).all()
    middle = (weights == 4).float().mean().item() * np.prod(grid.extent) / 1000
    assert 90 < middle < 200  # mL
    assert (weights[0, :: cells[0] - 1, :: cells[1] - 1] == 1).all()


def test_a_case_weighs_its_centre_by_its_own_spacing(tmp_path):
    fine, coarse = (Focus("centre", 4.0).read(tmp_path, (16, 16, 16), (mm,) * 3) for mm in (0.5, 2.0))
    assert (fine == 4).all()
    assert 0 < (coarse == 4).sum() < coarse.numel()


def test_the_loss_weighs_errors_by_the_focus():
    answer, noise = torch.full((2, 4, 2, 2, 2), 0.5), torch.zeros(2, 4, 2, 2, 2)
    focus = torch.ones(2, 1, 2, 2, 2)
    focus[0, 0, 0, 0, 0] = 9.0
    loss, _ = JointLoss(0.0)(answer, noise, weight=focus)
    assert loss.item() == pytest.approx(0.5 * (15 + 9) / 16)


def test_a_shift_moves_training_and_sampling_towards_the_noise_alike():
    shifted = training_timesteps("rflow", torch.tensor([0.0, 0.25, 0.5, 0.75]), (16, 16, 8), 3.0)
    assert shifted.tolist() == pytest.approx([0.0, 500.0, 750.0, 900.0])
    schedule = make_scheduler("rflow", "rflow", 4, (16, 16, 8), 3.0)
    assert schedule.timesteps.tolist() == pytest.approx([1000.0, 900.0, 750.0, 500.0])


@pytest.mark.parametrize(
    ("objective", "name", "value"),
    [
        ("ddpm", "timestep_shift", 3.0),
        ("rflow", "timestep_shift", 0.0),
        ("rflow", "timestep_shift", None),
        ("ddpm", "timestep_std", 1.0),
        ("rflow", "timestep_std", -1.0),
        ("rflow", "min_snr_gamma", 5.0),
        ("ddpm", "min_snr_gamma", 0.0),
    ],
)
def test_what_means_nothing_with_an_objective_is_refused(objective, name, value):
    with pytest.raises(UserError, match=f"{name} is {value} with objective {objective}"):
        NoisyBatch(objective, LatentScale((1.0,)), **{name: value})


@pytest.mark.parametrize("shift", [0.0, -1, "3"])
def test_sampling_refuses_a_shift_that_is_not_positive(shift):
    with pytest.raises(UserError, match="timestep_shift"):
        make_scheduler("rflow", "rflow", 4, (16, 16, 8), shift)

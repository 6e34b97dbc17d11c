import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.classifier.cases import read_test
from scripts.classifier.volumes import (
    VolumeDataset,
    augmentation,
    preprocessing,
    training_loader,
)  # fmt: skip
from scripts.common.problems import UserError
from scripts.engine.loading import Draw
from scripts.engine.share import rank_share

SIZE = [32, 32, 32]


def save(path, array, spacing):
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([*spacing, 1.0])), path)
    return {"folder": "case", "axt2": str(path), "label": np.array([1])}


def test_a_volume_comes_out_at_the_size_in_0_to_1(real_root):
    case = preprocessing([5, 5, 10], SIZE)(read_test(real_root)[0])
    assert case["image"].shape == (1, *SIZE)
    assert case["image"].dtype == torch.float32
    assert (case["image"].min(), case["image"].max()) == (0, 1)


def test_resampling_keeps_places_in_mm(tmp_path):
    """A ball of 20 mm stays where it was, and as large, on a grid of another spacing."""
    grid = np.stack(np.meshgrid(*[np.arange(40.0)] * 3, indexing="ij")) * 2
    ball = (((grid - np.array([30, 46, 38]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 20**2) * 900.0 + 1
    volume = preprocessing([2, 2, 5], [40, 40, 32])(save(tmp_path / "ball.nii.gz", ball, (2, 2, 2)))["image"][0]
    inside = torch.nonzero(volume > 0.5).float()
    centre = inside.mean(0) * torch.tensor([2.0, 2.0, 5.0])
    # 80 mm become 16 slices, padded by 8 at each end; a voxel's centre lies half a voxel from its edge.
    expected = torch.tensor([30.0, 46.0, 38 + 1 - 2.5 + 8 * 5])
    assert torch.allclose(centre, expected, atol=0.6)
    assert len(inside) * 20 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.05)


def test_a_volume_of_the_wanted_spacing_is_not_interpolated(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.uniform(1, 100, (32, 32, 32))
    volume = preprocessing([2, 2, 3], SIZE)(save(tmp_path / "v.nii.gz", array, (2, 2, 3)))["image"][0].numpy()
    low, high = np.percentile(array, (0, 98))
    assert np.allclose(volume, ((array - low) / (high - low)).clip(0, 1), atol=1e-3)


@pytest.mark.parametrize(
    ("array", "message"), [(np.full((8, 8, 8), np.nan), "NaN"), (np.full((8, 8, 8), 7.0), "constant")]
)
def test_broken_volumes_are_told_with_their_case(array, message, tmp_path):
    with pytest.raises(UserError, match=f"case.*{message}"):
        preprocessing([1, 1, 1], SIZE)(save(tmp_path / "v.nii.gz", array, (1, 1, 1)))


@pytest.mark.parametrize("cache_rate", [0, 0.5, 1])
def test_all_broken_volumes_are_told_at_once(tmp_path, cache_rate):
    values = (np.full((8, 8, 8), np.nan), np.arange(512.0).reshape(8, 8, 8), np.full((8, 8, 8), 7.0))
    cases = [save(tmp_path / f"{n}.nii.gz", v, (1, 1, 1)) | {"folder": f"case{n}"} for n, v in enumerate(values)]
    with pytest.raises(UserError, match=r"(?s)case0/axt2.*NaN.*case2/axt2.*constant") as caught:
        VolumeDataset(cases, preprocessing([1, 1, 1], SIZE), cache_rate=cache_rate)
    assert "case1" not in str(caught.value)


def test_sizes_that_are_none_are_refused():
    for spacing, size in (([1, 1, 1], [64, 64, 0]), ([1, 1], SIZE), ([1, 0, 1], SIZE)):
        with pytest.raises(UserError):
            preprocessing(spacing, size)


def test_rotation_is_in_the_axial_plane_and_keeps_the_size():
    rotate = augmentation(1.0, 15, [0, 0, 0], [1, 1])
    slices = torch.arange(32.0).repeat(32, 32, 1)[None] + 1
    result = rotate.set_random_state(seed=3)({"image": slices})["image"]
    assert result.shape == slices.shape
    centre = result[0, 8:24, 8:24]
    assert torch.allclose(centre, slices[0, 8:24, 8:24], atol=1e-3)  # no slice mixes with another


@pytest.mark.parametrize("transform", [{"translation": [16, 16, 0]}, {"zoom": [0.5, 0.5]}])
def test_outside_the_volume_there_is_nothing(transform):
    still = {"translation": [0, 0, 0], "zoom": [1, 1]}
    augment = augmentation(1.0, 0, **still | transform).set_random_state(seed=3)
    result = augment({"image": torch.ones(1, 32, 32, 32)})["image"]
    assert result.min() == 0
    assert result.max() == 1


def test_augmentation_depends_on_seed_epoch_and_case_alone(real_root):
    cases = read_test(real_root)
    transform = preprocessing([5, 5, 10], SIZE)
    augment = augmentation(0.5, 15, [3, 3, 1], [0.9, 1.1])
    dataset = VolumeDataset(cases, transform, augment, seed=1)
    first = [dataset[Draw(2, i)]["image"] for i in range(6)]
    again = [dataset[Draw(2, i)]["image"] for i in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, dataset[Draw(3, i)]["image"]) for i, a in enumerate(first))
    assert all(torch.equal(dataset[i]["image"], transform(cases[i])["image"]) for i in range(6))


def test_a_loader_gives_each_epoch_another_order_and_no_single_case(real_root):
    dataset = VolumeDataset(read_test(real_root), preprocessing([5, 5, 10], SIZE), seed=0)
    loader = training_loader(dataset, batch_size=5, num_workers=0, seed=0)
    orders = []
    for epoch in (1, 2, 1):
        (batch,) = loader.batch_sampler.epoch(epoch)
        assert len(batch) == 5
        assert {draw.epoch for draw in batch} == {epoch}
        orders.append([draw.index for draw in batch])
    assert len(loader) == 1
    assert orders[0] == orders[2] != orders[1]
    with pytest.raises(UserError, match="batch normalisation"):
        training_loader(dataset, batch_size=1, num_workers=0, seed=0)


def test_processes_share_cases_without_repeats(monkeypatch):
    cases, shares = [{"folder": str(i)} for i in range(7)], []
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        shares += rank_share(cases)
    assert sorted(case["folder"] for case in shares) == [str(i) for i in range(7)]
    with pytest.raises(UserError, match="fewer processes"):
        rank_share(cases[:2])

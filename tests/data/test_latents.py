"""Latents on disk: what is written comes back, and what cannot be used is refused with a reason."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts.common.problems import UserError
from scripts.data.latents import find_latent, latent_path, read_latent, read_latent_header, write_latent

AFFINE = np.array([[0.5, 0, 0, -64.0], [0, 0.5, 0, -60.0], [0, 0, 0.5625, 12.0], [0, 0, 0, 1]])


def make(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 2, 5, generator=generator), torch.rand(4, 3, 2, 5, generator=generator)


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    mu, sigma = make()
    path = latent_path(tmp_path, "007", "axt2")
    write_latent(path, mu, sigma, fingerprint="abc", affine=AFFINE, shape=(12, 8, 20))
    latent = read_latent(find_latent(tmp_path, "007", "axt2"))
    assert torch.equal(latent.mu, mu)
    assert torch.equal(latent.sigma, sigma)
    assert latent.fingerprint == "abc"
    assert latent.shape == (12, 8, 20)
    assert latent.spacing == pytest.approx((0.5, 0.5, 0.5625))
    assert np.array_equal(latent.affine, AFFINE)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    mu, sigma = make()
    path = latent_path(tmp_path, "a", "axt2")
    write_latent(path, mu, sigma, fingerprint="old", affine=AFFINE, shape=(12, 8, 20))
    with pytest.raises(Exception):  # noqa: B017, PT011 - any failure
        write_latent(path, mu, sigma, fingerprint=5, affine=AFFINE, shape=(12, 8, 20))  # metadata must be text
    assert read_latent(path).fingerprint == "old"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_authors_files_are_one_draw_with_channels_last(tmp_path):
    mu, _ = make()
    (tmp_path / "a").mkdir()
    image = nib.Nifti1Image(np.moveaxis(mu.numpy(), 0, -1), AFFINE)
    nib.save(image, tmp_path / "a" / "axt2_emb.nii.gz")
    latent = read_latent(find_latent(tmp_path, "a", "axt2"))
    assert torch.equal(latent.mu, mu)
    assert latent.sigma is None
    assert latent.fingerprint is None
    assert latent.shape == (12, 8, 20)


def test_our_file_wins_over_the_authors(tmp_path):
    mu, sigma = make()
    write_latent(latent_path(tmp_path, "a", "adc"), mu, sigma, fingerprint="x", affine=AFFINE, shape=(12, 8, 20))
    (tmp_path / "a" / "adc_emb.nii.gz").touch()
    assert find_latent(tmp_path, "a", "adc").suffix == ".safetensors"


@pytest.mark.parametrize("name", ["axt2_latent.safetensors", "axt2_emb.nii.gz"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a latent")
    with pytest.raises(UserError, match=name):
        read_latent(tmp_path / name)


def test_a_header_is_what_the_whole_latent_tells(tmp_path):
    mu, sigma = make()
    ours, authors = tmp_path / "axt2_latent.safetensors", tmp_path / "axt2_emb.nii.gz"
    write_latent(ours, mu, sigma, fingerprint="abc", affine=AFFINE, shape=(12, 8, 20))
    nib.save(nib.Nifti1Image(np.moveaxis(mu.numpy(), 0, -1), AFFINE), authors)
    for path in (ours, authors):
        header, whole = read_latent_header(path), read_latent(path)
        assert header.cells == whole.cells == tuple(mu.shape)
        for name in ("fingerprint", "spacing", "shape"):
            assert getattr(header, name) == getattr(whole, name)
        assert np.array_equal(header.affine, whole.affine)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(UserError, match=path.name):
            read_latent_header(path)


def test_a_missing_latent_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"case 007.*axt2_latent.*encode"):
        find_latent(tmp_path, "007", "axt2")


def test_a_folder_cannot_leave_the_latents(tmp_path):
    with pytest.raises(ValueError, match="leaves"):
        latent_path(tmp_path, "../other", "axt2")

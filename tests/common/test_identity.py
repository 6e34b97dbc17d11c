"""Files that hold the same are the same, whenever they were written; what was told of shipped weights stays true."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from scripts.common.identity import KEPT, code_fingerprint, file_identity, fingerprint, is_by_contents
from scripts.common.problems import UserError
from scripts.common.tensors import write_tensors
from scripts.data.latents import write_latent
from scripts.reports.embeddings import write_embedding

TENSORS = {"a": torch.arange(4.0), "b": torch.zeros(2, 2)}


def test_the_fingerprint_sees_names_shapes_and_values_but_not_order():
    known = fingerprint(TENSORS)
    assert known == fingerprint(dict(reversed(TENSORS.items())))
    assert known != fingerprint({"a": torch.arange(4.0) + 1e-6, "b": torch.zeros(2, 2)})
    assert known != fingerprint({"a": torch.arange(4.0), "b": torch.zeros(4)})
    assert known != fingerprint({"a": torch.arange(4.0), "c": torch.zeros(2, 2)})
    assert known != fingerprint({"a": torch.arange(4.0).half(), "b": torch.zeros(2, 2)})


def test_shipped_weights_are_told_by_their_tensors(repo_root):
    vae = repo_root / "bundles" / "vae" / "models" / "demo_vae.safetensors"
    assert file_identity(vae) == f"contents_{fingerprint(load_file(vae))}"


def test_files_of_equal_tensors_are_the_same_whatever_their_bytes_and_other_metadata(tmp_path):
    names = [f"name{number}" for number in range(9)]
    paths = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for path in paths:
        write_tensors(path, TENSORS, {name: path.name for name in names})
    assert len({path.read_bytes() for path in paths}) > 1
    assert len({file_identity(path) for path in paths}) == 1
    assert len({file_identity(path, ["name3"]) for path in paths}) == 4
    write_tensors(paths[0], TENSORS, {"epoch": "7", "config": "c"})
    write_tensors(paths[1], TENSORS, {"config": "c"})
    assert file_identity(paths[0], ["config"]) == file_identity(paths[1], ["config"]) != file_identity(paths[0])
    write_tensors(paths[1], TENSORS | {"a": torch.ones(4)}, {"config": "c"})
    assert file_identity(paths[0]) != file_identity(paths[1])


def test_latents_and_embeddings_keep_the_identity_that_their_tensors_have(tmp_path):
    """So that it need not be computed by whoever asks for it."""
    mu, sigma = torch.randn(4, 2, 2, 2), torch.rand(4, 2, 2, 2)
    write_latent(tmp_path / "l.safetensors", mu, sigma, fingerprint="vae", affine=np.eye(4), shape=(8, 8, 8))
    write_embedding(tmp_path / "e.safetensors", torch.randn(3, 5).half(), "encoder")
    for path in list(tmp_path.iterdir()):
        kept = file_identity(path)
        save_file(load_file(path), tmp_path / "bare.safetensors")
        assert kept == file_identity(tmp_path / "bare.safetensors")
        with safe_open(path, "pt") as file:
            assert kept == f"contents_{file.metadata()[KEPT]}"


def test_an_image_is_its_voxels_and_its_place(tmp_path):
    voxels, affine = np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([0.5, 0.5, 3, 1])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii")
    with gzip.GzipFile(tmp_path / "b.nii.gz", "wb", mtime=5) as file:  # the header of gzip holds the time
        file.write((tmp_path / "a.nii").read_bytes())
    described = nib.Nifti1Image(voxels.astype(np.float32), affine)
    described.header["descrip"] = "exported again"
    nib.save(described, tmp_path / "c.nii.gz")
    same = {file_identity(path) for path in tmp_path.iterdir()}
    assert len(same) == 1
    nib.save(nib.Nifti1Image(voxels, np.diag([0.5, 0.5, 2, 1])), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(voxels[::-1], affine), tmp_path / "b.nii.gz")
    assert len({*same, file_identity(tmp_path / "a.nii"), file_identity(tmp_path / "b.nii.gz")}) == 3


def test_other_files_are_their_bytes(tmp_path):
    for name, array in (("a.npy", np.zeros(3)), ("b.npy", np.zeros(3)), ("c.npy", np.ones(3))):
        np.save(tmp_path / name, array)
    a, b, c = (file_identity(tmp_path / name) for name in ("a.npy", "b.npy", "c.npy"))
    assert a == b != c
    assert is_by_contents(a)
    assert not is_by_contents("0123456789abcdef")  # of an earlier version


@pytest.mark.parametrize("name", ["x.safetensors", "x.nii", "x.nii.gz", "missing.npy"])
def test_a_file_that_is_missing_or_damaged_is_named(tmp_path, name):
    if name.startswith("x"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"{name} cannot be read.*copy it again"):
        file_identity(tmp_path / name)


def test_an_image_that_is_cut_short_is_damaged(tmp_path):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (9, 9, 9)).astype(np.int16), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(UserError, match="damaged"):
        file_identity(path)


def test_code_is_known_by_its_contents_and_places_but_not_by_line_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_bytes(b"one\ntwo\n")
    known = code_fingerprint(tmp_path)
    (tmp_path / "a" / "x.py").write_bytes(b"one\r\ntwo\r\n")
    (tmp_path / "a" / "x.pyc").write_bytes(b"compiled")
    assert code_fingerprint(tmp_path) == known
    (tmp_path / "a" / "x.py").rename(tmp_path / "x.py")
    assert code_fingerprint(tmp_path) != known
    (tmp_path / "x.py").rename(tmp_path / "a" / "x.py")
    (tmp_path / "a" / "x.py").write_bytes(b"one\nthree\n")
    assert code_fingerprint(tmp_path) != known

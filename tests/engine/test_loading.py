"""Workers whose batches do not fit into shared memory say so, before they start or when it is full, and never hang."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import default_collate

from scripts.classifier.volumes import Draw, training_loader
from scripts.common.problems import UserError
from scripts.engine import loading
from scripts.vae.training import epoch_loader


class Numbers(torch.utils.data.Dataset):
    """Eight items of 1 MiB, in a form that a loader must look into."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        number = index.index if isinstance(index, Draw) else index
        return {"image": torch.full((2**18,), float(number)), "folder": str(number)}


def nested(examples):
    batch = default_collate(examples)
    return {"parts": [batch["image"], (batch["folder"],)]}


@pytest.fixture
def shared(monkeypatch):
    """Says how many MiB are free in shared memory, and how many processes this machine has."""

    def give(mebibytes: float, processes: int = 1) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(mebibytes * 2**20)))
        monkeypatch.setattr("ignite.distributed.get_nproc_per_node", lambda: processes)

    return give


@pytest.mark.parametrize(("processes", "needed"), [(1, 10), (2, 20)])
def test_too_little_shared_memory_is_told_before_anything_starts(shared, processes, needed):
    """Two workers are two batches of 2 MiB ahead each, and one batch is in the hands of the trainer."""
    shared(needed - 0.1, processes)
    with pytest.raises(UserError, match=rf"needs about {needed} MiB .*/dev/shm.* --shm-size.* --num_workers 0"):
        loading.data_loader(Numbers(), batch_size=2, num_workers=2, collate_fn=nested)
    loading.data_loader(Numbers(), batch_size=2, num_workers=0)
    shared(needed, processes)
    loading.data_loader(Numbers(), batch_size=2, num_workers=2, collate_fn=nested)


@pytest.mark.parametrize("make", [epoch_loader, training_loader])
def test_the_loaders_of_the_other_trainings_look_too(shared, make):
    shared(1)
    with pytest.raises(UserError, match="--shm-size"):
        make(Numbers(), batch_size=2, num_workers=1, seed=0)


def test_memory_that_fills_up_later_is_told_by_the_worker(monkeypatch):
    """What PyTorch raises where it is full; in its own thread nobody would see it, and the batch would never come."""

    def full(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    loader = loading.data_loader(Numbers(), batch_size=2, num_workers=1, collate_fn=nested)
    with pytest.raises(UserError, match=r"/dev/shm is full.*--shm-size.*--num_workers 0"):
        next(iter(loader))


def test_batches_come_over_as_they_are():
    batch = next(iter(loading.data_loader(Numbers(), batch_size=2, num_workers=1, collate_fn=nested)))
    assert batch["parts"][0].is_shared()
    assert batch["parts"][0][:, 0].tolist() == [0, 1]
    assert list(batch["parts"][1][0]) == ["0", "1"]


def test_a_loader_of_nothing_is_no_error():
    assert len(loading.data_loader(Numbers(), batch_sampler=[], num_workers=1)) == 0

"""Loading processes: how many, that they change nothing, and that they never hang where shared memory is short."""

from __future__ import annotations

import gc
import itertools
import shutil
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import ignite.distributed as idist
import pytest
import torch
from torch.utils.data import default_collate

from scripts.classifier.volumes import training_loader
from scripts.common.problems import UserError
from scripts.engine import loading
from scripts.engine.loading import Draw, ShuffledEpochs
from scripts.vae.training import epoch_loader


class Numbers(torch.utils.data.Dataset):
    """Eight items of 1 MiB, in a form that a loader must look into."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        epoch, number = index if isinstance(index, Draw) else (0, index)
        return {"image": torch.full((2**18,), float(number)), "folder": f"{number} in {epoch}"}


def nested(examples):
    batch = default_collate(examples)
    return {"parts": [batch["image"], (batch["folder"],)]}


@pytest.fixture
def shared(monkeypatch):
    """Says how many MiB are free in shared memory, and how many processes this machine has."""
    monkeypatch.setattr(loading, "_needed", WeakKeyDictionary())

    def give(mebibytes: float, processes: int = 1) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(mebibytes * 2**20)))
        monkeypatch.setattr("ignite.distributed.get_nproc_per_node", lambda: processes)

    return give


@pytest.mark.parametrize(("processes", "size", "needed"), [(1, 1, 5), (2, 1, 10), (1, 4, 8)])
def test_too_little_shared_memory_is_told_before_anything_starts(shared, processes, size, needed):
    """Two workers are two batches ahead each, the trainer has one in hand; there are no more than an epoch's."""
    shared(needed - 0.1, processes)
    with pytest.raises(UserError, match=rf"needs about {needed} MiB .*/dev/shm.* --shm-size.* --num_workers 0"):
        loading.data_loader(Numbers(), batch_size=size, num_workers=2, collate_fn=nested)
    loading.data_loader(Numbers(), batch_size=size, num_workers=0)
    shared(needed, processes)
    loading.data_loader(Numbers(), batch_size=size, num_workers=2, collate_fn=nested)


def test_where_nobody_asked_for_workers_too_little_shared_memory_is_no_end(shared, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading, "loading_processes", lambda given: 2)
    shared(1)
    assert loading.data_loader(Numbers(), batch_size=2, num_workers=None).num_workers == 0
    assert "MiB are free in /dev/shm. Start the container with more" in caplog.text


def test_what_another_loader_needs_is_not_free(shared):
    """That of the training is ahead while the one of the validation is asked; once it is gone, there is room again."""
    shared(8)
    options = {"batch_size": 1, "num_workers": 2, "collate_fn": nested}
    training = loading.data_loader(Numbers(), **options)
    with pytest.raises(UserError, match=r"needs about 5 MiB .* 3 MiB are free"):
        loading.data_loader(Numbers(), **options)
    del training
    gc.collect()
    loading.data_loader(Numbers(), **options)


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
    assert list(batch["parts"][1][0]) == ["0 in 0", "1 in 0"]


def test_a_loader_of_nothing_is_no_error():
    assert len(loading.data_loader(Numbers(), batch_sampler=[], num_workers=1)) == 0


@pytest.mark.parametrize(
    ("given", "gpu", "cores", "processes", "expected"),
    [
        (None, False, 64, 1, 0),
        (None, True, 64, 1, 4),
        (None, True, 64, 8, 4),
        (None, True, 24, 8, 2),
        (None, True, 8, 8, 0),
        (None, True, 4, 8, 0),
        (3, False, 1, 1, 3),
        (0, True, 64, 1, 0),
    ],
)
def test_four_processes_load_where_there_is_a_gpu_and_cores_for_them(
    monkeypatch, given, gpu, cores, processes, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(loading, "cpu_count", lambda: cores)
    monkeypatch.setattr(idist, "get_nproc_per_node", lambda: processes)
    assert loading.loading_processes(given) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_follow_one_another_in_the_same_processes(num_workers):
    """Each item knows its epoch, whatever process loads it; a run begins after the epochs that are done."""
    dataset = Numbers()
    epochs = ShuffledEpochs(dataset, 3, seed=1)
    loader = loading.data_loader(dataset, batch_sampler=epochs, num_workers=num_workers)
    for done in (0, 4):
        epochs.epochs_done = done
        found = [batch["folder"] for batch in itertools.islice(loader, 3 * len(loader))]
        assert [len(folders) for folders in found] == [3, 3, 2] * 3
        orders = []
        for number in range(3):
            folders = [folder for batch in found[number * len(loader) :][: len(loader)] for folder in batch]
            numbers, named = zip(*(folder.split(" in ") for folder in folders), strict=True)
            assert sorted(map(int, numbers)) == list(range(8))
            assert set(named) == {str(done + number + 1)}
            orders.append(numbers)
        assert len(set(orders)) == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_draws_nothing_from_the_global_generator(num_workers):
    loader = loading.data_loader(Numbers(), batch_size=4, num_workers=num_workers)
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    for _ in range(2):
        list(loader)
    assert torch.rand(()) == expected

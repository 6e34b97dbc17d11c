"""How the processes of torchrun find each other."""

from __future__ import annotations

import datetime
import os

import pytest
import torch

from scripts.engine.processes import join


@pytest.fixture
def joined(monkeypatch) -> list[tuple]:
    """What was asked of Ignite: backend, options, and whether it could see a job of SLURM."""
    given: list[tuple] = []

    def initialize(backend, **options):
        given.append((backend, options, "SLURM_JOB_ID" in os.environ))

    monkeypatch.setattr("ignite.distributed.initialize", initialize)
    return given


def test_one_process_joins_nothing(joined, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    join(torch.device("cpu"))
    assert joined == []


def test_processes_that_work_together_join_nothing(joined, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    join(torch.device("cpu"))
    assert joined == []


def test_a_process_works_on_its_own_gpu_with_the_fastest_kernels(monkeypatch):
    chosen = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("torch.backends.cudnn.benchmark", False)
    join(torch.device("cpu"))
    assert (chosen, torch.backends.cudnn.benchmark) == ([], False)
    join(torch.device("cuda:1"))
    assert (chosen, torch.backends.cudnn.benchmark) == ([torch.device("cuda:1")], True)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "nccl")])
def test_the_device_decides_how_processes_talk(joined, monkeypatch, device, backend):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.set_device", lambda device: None)
    monkeypatch.setattr("torch.backends.cudnn.benchmark", False)
    join(torch.device(device))
    join(torch.device(device), waits=True)
    assert [one[0] for one in joined] == [backend, backend]
    assert joined[0][1] == {}
    assert joined[1][1]["timeout"] > datetime.timedelta(days=1)


def test_torchruns_word_counts_inside_a_job_of_slurm(joined, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    join(torch.device("cpu"))
    assert not joined[0][2]
    assert os.environ["SLURM_JOB_ID"] == "17"

"""What counts as available memory on the CPU."""

from __future__ import annotations

import pytest
import torch

from scripts.vae import memory

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 3,000 KiB available, most of it file cache, and no container."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 3000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def limit(folder, most: str) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text("900\n")
    (folder / "memory.stat").write_text("anon 400\ninactive_file 500\n")


def test_the_file_cache_counts_as_available(machine):
    assert memory.available(CPU) == 3000 * 1024


@pytest.mark.parametrize(("most", "left"), [("max", 3000 * 1024), ("1000", 600), (str(10**9), 3000 * 1024)])
def test_a_container_keeps_to_its_limit(machine, most, left):
    limit(machine, most)
    assert memory.available(CPU) == left


def test_a_machine_without_meminfo_tells_its_total(machine):
    (machine / "meminfo").unlink()
    assert memory.available(CPU) > 2**28


def test_processes_on_one_cpu_share_its_memory(machine, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_nproc_per_node", lambda: 2)
    assert memory.available(CPU) == 1500 * 1024


def segment(device: int, pool: tuple[int, int], total: int, active: int) -> dict:
    return {"device": device, "segment_pool_id": pool, "total_size": total, "active_size": active}


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_what_pytorch_keeps_of_freed_tensors_counts_as_free_but_not_what_graphs_keep(monkeypatch, device):
    segments = [
        segment(1, (0, 0), 40, 30),
        segment(1, (0, 0), 20, 15),
        segment(1, (0, 1), 500, 0),  # a CUDA graph's
        segment(1, (3, 0), 700, 0),  # of a user's own pool
        segment(0, (0, 0), 900, 0),  # of another GPU
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10, 100))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert memory.available(torch.device(device)) == 10 + 10 + 5

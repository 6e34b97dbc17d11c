"""Memory for the CPU: what Linux says is available, not what is free, which files in its cache make small."""

from __future__ import annotations

import os

import torch

from scripts.vae import memory

CPU = torch.device("cpu")


def test_memory_that_caches_files_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    memory.MEMINFO.write_text("MemTotal:  4000 kB\nMemFree:  100 kB\nMemAvailable:   3000 kB\nHugePages_Total:   0\n")
    assert memory.available(CPU) == 3000 * 1024


def test_without_linux_the_total_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "nowhere")
    assert memory.available(CPU) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

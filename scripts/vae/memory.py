"""How much memory there is to work with."""

from __future__ import annotations

import os
from pathlib import Path

import ignite.distributed as idist
import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
EVERYONES = (0, 0)  # PyTorch's name for the pool of GPU memory that all tensors come from, but those of CUDA graphs


def available(device: torch.device) -> int:
    """Bytes that can still be taken on `device`: free GPU memory, or this process' part of the machine's on the CPU.

    On Linux that counts the file cache, which gives way, and keeps to the limit of a container. A GPU is one process'
    own; on the CPU all that a launcher has started here look at the same memory, at the same time.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + _kept(device)
    return min([_machine(), *_container()]) // idist.get_nproc_per_node()


def _kept(device: torch.device) -> int:
    """What PyTorch keeps of freed tensors for its next ones; what it keeps for the replay of CUDA graphs is theirs."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return sum(
        segment["total_size"] - segment["active_size"]
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == index and segment["segment_pool_id"] == EVERYONES
    )


def _machine() -> int:
    if MEMINFO.is_file():
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        return next(int(parts[1]) for parts in lines if parts[0] == "MemAvailable:") * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # macOS knows the total only


def _container() -> list[int]:
    """What is left of a control group's limit, its file cache not counted as taken; nothing where there is none."""
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        cache = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, KeyError):
        return []
    return [] if limit == "max" else [int(limit) - int(used) + int(cache)]

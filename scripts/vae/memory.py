"""How much memory there is to work with."""

from __future__ import annotations

import os
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")


def available(device: torch.device) -> int:
    """Bytes that can be taken on `device`: free GPU memory; for the CPU what Linux can give without swapping.

    Memory that merely caches files counts, as Linux gives it up. Other systems tell their total only.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not MEMINFO.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    return int(fields["MemAvailable"].removesuffix("kB")) * 1024

"""How much memory there is to work with."""

from __future__ import annotations

import os

import torch


def available(device: torch.device) -> int:
    """Bytes that can still be taken on `device`: free GPU memory, or the machine's available memory for the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    pages = (
        "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    )  # macOS knows the total only
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")

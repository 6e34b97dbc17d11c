"""What a process sets up before it works: its device, and the other processes that torchrun started."""

from __future__ import annotations

import datetime
import os

import ignite.distributed as idist
import torch

DAYS = 2  # that a process which is done waits for the slowest, where the backends would give up after minutes


def join(device: torch.device, waits: bool = False) -> None:
    """Let this process use its GPU, and work together with the others of its run, where there are any.

    Where they do so already there is nothing to do: MONAI's client of a federation initializes a workflow twice.

    Args:
        device: this process'; GPUs talk by NCCL, processors by gloo.
        waits: a process that is done with its cases waits for days, as the others' may take far longer.
    """
    if device.type == "cuda":
        if device.index is not None:  # else it is the one in use
            torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # tries its kernels for each shape; those here are of one grid
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or torch.distributed.is_initialized():
        return
    # Inside a job of SLURM Ignite would take ranks from there, and refuse those of torchrun.
    slurm = os.environ.pop("SLURM_JOB_ID", None)
    try:
        timeout = {"timeout": datetime.timedelta(days=DAYS)} if waits else {}
        idist.initialize("nccl" if device.type == "cuda" else "gloo", **timeout)
    finally:
        if slurm is not None:
            os.environ["SLURM_JOB_ID"] = slurm

"""Between the host and a GPU that works behind the program's back: what is sent there, and when it is done."""

from __future__ import annotations

import time

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; the host does not wait for a GPU to take it, which it does only of pinned memory."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class Moment:
    """When a device is done with all that it was given so far."""

    def __init__(self, device: torch.device) -> None:
        self.event = torch.cuda.Event(enable_timing=True, blocking=True) if device.type == "cuda" else None
        if self.event is None:
            self.seconds = time.perf_counter()
        else:
            self.event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        """Let this thread sleep until then; others run on."""
        if self.event is not None:
            self.event.synchronize()

    def since(self, earlier: Moment) -> float:
        """Seconds of the device between two moments, both of which must have come."""
        if self.event is None:
            return self.seconds - earlier.seconds
        return earlier.event.elapsed_time(self.event) / 1000

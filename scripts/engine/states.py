"""How the state of a training's parts goes into a checkpoint, and comes back out of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def in_main_memory(state: Any) -> Any:
    """A copy of a state in main memory, which a training that goes on does not change."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: in_main_memory(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(in_main_memory(value) for value in state)
    return state


def as_here(part: Any, state: dict[str, Any]) -> dict[str, Any]:
    """A part's state; an optimizer computes its steps as is right on this device, and not as on the checkpoint's."""
    if not isinstance(part, Optimizer):
        return state
    groups = zip(state["param_groups"], part.param_groups, strict=True)
    return state | {"param_groups": [old | {"fused": new.get("fused")} for old, new in groups]}


def copy_state(optimizer: Optimizer) -> None:
    """Give an optimizer memory of its own: of a mapped file it keeps what lies on the right device already.

    A checkpoint that was replaced meanwhile would go on taking its place on the disk.
    """
    for state in optimizer.state.values():
        state |= {name: value.clone() for name, value in state.items() if getattr(value, "is_cpu", False)}


def set_rates(schedule: LambdaLR) -> None:
    """Set the learning rates to the schedule's at its step: a checkpoint's are those of the epochs planned then."""
    groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
    for group, highest, factor in groups:
        group["lr"] = highest * factor(schedule.last_epoch)

"""The values at the top of a config, checked before anything is read or built: everything that is wrong at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from scripts.cli.options import read_value
from scripts.common.problems import Problems, UserError
from scripts.data.datalists import is_spacing
from scripts.data.images import SCANNER_UNITS
from scripts.engine.precision import PRECISIONS
from scripts.ldm.loss import NOISE_LOSSES
from scripts.ldm.schedule import SOLVERS
from scripts.networks.variants import VARIANTS

# The smallest whole number that each may be.
WHOLE = {
    "epochs": 1, "batch_size": 1, "accumulate": 1, "replicates": 1, "lr_warmup": 0, "val_buckets": 1, "val_interval": 1,
    "checkpoint_every": 1, "save_interval": 1, "sample_every": 1, "sample_count": 1, "val_cases": 1, "scale_cases": 1,
    "num_workers": 0, "max_tokens": 2, "seed": 0,
}  # fmt: skip
# Numbers, and the range [low, high] of each.
NUMBERS = {
    "lr": (0, math.inf), "lr_power": (0, math.inf), "gradient_clip": (0, math.inf), "class_weight": (0, math.inf),
    "focus_weight": (0, math.inf), "sample_guidance": (0, math.inf), "ema_decay": (0, 1), "val_fraction": (0, 1),
    "drop_report": (0, 1), "drop_class": (0, 1), "drop_both": (0, 1), "kl_weight": (0, math.inf),
    "gradient_weight": (0, math.inf), "coarse_weight": (0, math.inf), "validation_fraction": (0, 1),
    "cache_rate": (0, 1),
}  # fmt: skip
CHOICES = {"variant": VARIANTS, "objective": SOLVERS, "noise_loss": NOISE_LOSSES, "amp": PRECISIONS}
SWITCHES = (
    "fresh_noise", "lr_split", "activation_checkpointing", "compile", "freeze_unet", "export_half", "resume", "cache",
    "padded_reports", "augment",
)  # fmt: skip
FILES = ("initial_weights", "pretrained_unet")
OPTIONAL = ("class_weight", "padded_reports", *FILES)  # may be null
TRIPLES = ("patch", "spacing", "spatial_size")  # along x, y, z


def check_values(**options: Any) -> None:
    """Check options by their names; each must be in one of the tables above.

    Raises:
        UserError: everything that is wrong.
    """
    problems = Problems("options")
    for name, value in options.items():
        wanted = _wanted(name, value)
        if wanted:
            problems.add(name, f"is {value!r}", f"give {wanted}")
    problems.raise_if_any()


def _wanted(name: str, value: Any) -> str | None:
    """What the option must be, where it is not that."""
    if name in OPTIONAL and value in (None, ""):
        return None
    if name == "channels":
        right = isinstance(value, list | tuple) and value and set(map(str, value)) <= set(SCANNER_UNITS)
        if right and len(set(value)) == len(value):
            return None
        return f"""a list of different ones of {", ".join(SCANNER_UNITS)}, such as "['axt2']\""""
    if name in WHOLE:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= WHOLE[name]
        return None if right else f"a whole number of at least {WHOLE[name]}"
    if name in NUMBERS:
        low, high = NUMBERS[name]
        right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        within = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
        return None if right and math.isfinite(value) else f"a number {within}"
    if name in CHOICES:
        return None if value in CHOICES[name] else f"one of {', '.join(CHOICES[name])}"
    if name in SWITCHES:
        try:
            switch(**{name: value})
        except UserError:
            return "true or false"
        return None
    if name in FILES:
        return None if Path(value).is_file() else "a file that is there, or null"
    if name in TRIPLES:
        return None if value is None or is_spacing(value) else "three positive numbers, e.g. [64,64,32]"
    raise KeyError(name)


def check_validated(epochs: int, val_interval: int) -> None:
    """For a training that keeps the best weights of its validations alone: there must be one.

    Raises:
        UserError: there is none.
    """
    if val_interval > epochs:
        raise UserError(
            f"val_interval {val_interval} is more than epochs {epochs}: no weights would be kept, which validation "
            "chooses; lower val_interval or raise epochs"
        )


def switch(**option: Any) -> bool:
    """The value of an option that is on or off: Fire hands `--resume False` over as a bool, `--resume false` as a word.

    Raises:
        UserError: it is neither true nor false.
    """
    ((name, value),) = option.items()
    try:
        return read_value(str(value), bool)
    except ValueError as error:
        raise UserError(f"{name} is {value!r}; {error}") from None


def optional_switch(**option: Any) -> bool | None:
    """The value of an option that is on, off, or null: left to what it is about.

    Raises:
        UserError: it is none of these.
    """
    return None if None in option.values() else switch(**option)

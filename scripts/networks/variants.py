"""The nine variants of the paper's ablation: one network class, told apart by three choices.

Source: CCELLA (arXiv 2506.10230), ablation table; the parameter names are those of the authors' checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from scripts.common.problems import UserError


@dataclass(frozen=True)
class Variant:
    """What a variant is made of.

    Attributes:
        adapter: the report enters through the adapter as cross-attention context.
        heads: where class heads read the adapter's latents: after the first or the last block, one head shared by all
            blocks, or one head for each block; None is no head.
        class_vector: what enters the U-Net as class: nothing, the case's own one-hot, or the predicted probabilities.
        class_weight: weight of the class loss; 0 is none.
    """

    adapter: bool
    heads: Literal["first", "last", "shared", "each"] | None
    class_vector: Literal["own", "predicted"] | None
    class_weight: float


VARIANTS: dict[str, Variant] = {
    "MAISI": Variant(False, None, None, 0.0),
    "RADMAISI": Variant(False, None, "own", 0.0),
    "ELLAMAISI": Variant(True, None, None, 0.0),
    "DECOUPLED": Variant(True, None, "own", 0.0),
    "FIRST": Variant(True, "first", "predicted", 1e-4),
    "LAST": Variant(True, "last", "predicted", 1e-4),
    "SHARED": Variant(True, "shared", "predicted", 1e-4),
    "L1ONLY": Variant(True, "each", "predicted", 0.0),
    "CCELLA": Variant(True, "each", "predicted", 1e-4),
}


def find_variant(name: str) -> Variant:
    """Give the variant of that name.

    Raises:
        UserError: there is no such variant.
    """
    if name not in VARIANTS:
        raise UserError(f"there is no variant {name!r}; the variants are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def class_weight(variant: str, given: float | None = None) -> float:
    """Weight of the class loss: the one given, else the variant's own."""
    return find_variant(variant).class_weight if given is None else given


def guess_variant(names: Iterable[str]) -> str:
    """Say which variant a checkpoint's parameter names look like.

    CCELLA and L1ONLY have the same parameters and differ only in their loss: both are answered with `CCELLA`.
    """
    names = list(names)

    def holds(part: str) -> bool:
        return any(part in name for name in names)

    own_class = holds("pirads_layer.")
    if not holds("ella."):
        return "RADMAISI" if own_class else "MAISI"
    if holds("connector.cascade_blocks."):
        return "CCELLA"
    if holds("connector.classifier."):
        return "SHARED" if "classifier.weight" in names else "FIRST"
    if "classifier.fc1.weight" in names:
        return "LAST"
    return "DECOUPLED" if own_class else "ELLAMAISI"

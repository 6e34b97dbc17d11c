"""Where a classifier looks: GradCAM of the cases it is surest of, and of those it is most wrong about."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import pandas as pd
import torch
from monai.visualize import GradCAM
from numpy.typing import NDArray
from torch import Tensor, nn

from scripts.classifier.network import last_maps
from scripts.classifier.pictures import Looked, draw_looked
from scripts.classifier.predictions import Collected
from scripts.data.datalists import Case

POSITIVE = 1
CLASS_NAMES = {0: "negative", 1: "positive"}


def write_saliency(
    network: nn.Module,
    cases: Sequence[Case],
    transform: Callable[[Case], Case],
    predictions: Collected,
    path: str | os.PathLike[str],
    *,
    each: int,
    spacing: Sequence[float],
    threshold: float,
    device: torch.device,
) -> None:
    """Draw what speaks for cancer in some cases, on the first channel; the first rank does it.

    Args:
        network: trained.
        cases: all of them.
        transform: preprocessing.
        predictions: of all of them.
        path: the PNG file.
        each: cases of each kind, see `choose`; 0 for no picture.
        spacing: in mm.
        threshold: from which a case counts as positive.
        device: the network's.
    """
    if each == 0 or idist.get_rank() > 0:
        return
    by_folder, rows = {case["folder"]: case for case in cases}, []
    look = looker(network)
    for kind, row in choose(predictions.frame, each, threshold):
        image = transform(by_folder[row.folder])["image"]
        truth = f", is {CLASS_NAMES[row.label]}" if row.label in CLASS_NAMES else ""
        title = f"{kind}: {row.folder}, probability {row.probability:.2f}{truth}"
        rows.append(Looked(image[0].numpy(), look(image[None].to(device)), title))
    draw_looked(rows, spacing, path)


def choose(frame: pd.DataFrame, each: int, threshold: float) -> list[tuple[str, Any]]:
    """Cases to look at, with their kind: the surest of either class, and the wrongest, as far as there are such.

    Args:
        frame: `folder`, `probability`, `label`.
        each: the most of each kind.
        threshold: from which a case counts as positive.
    """
    ordered = frame.sort_values(["probability", "folder"], ignore_index=True)
    called = ordered["probability"] >= threshold
    right = ordered["label"] == called.astype(int)
    wrong = ~right & ordered["label"].isin(list(CLASS_NAMES))
    unknown = ~ordered["label"].isin(list(CLASS_NAMES))
    kinds = {
        "surest positive": ordered[called & (right | unknown)][::-1],
        "surest negative": ordered[~called & (right | unknown)],
        "missed": ordered[~called & wrong],
        "false alarm": ordered[called & wrong][::-1],
    }
    return [(kind, row) for kind, rows in kinds.items() for row in rows.head(each).itertuples(index=False)]


def looker(network: nn.Module) -> Callable[[Tensor], NDArray[np.float32]]:
    """A function of an image (1, C, X, Y, Z): what speaks there for the positive class (X, Y, Z), at most 1.

    GradCAM (Selvaraju et al., ICCV 2017) of the last maps: as coarse as they are, and zero where nothing speaks for it.
    """
    cam = GradCAM(nn_module=network, target_layers=last_maps(network), postprocessing=lambda maps: maps)

    def look(image: Tensor) -> NDArray[np.float32]:
        weight = cam(x=image.requires_grad_(), class_idx=POSITIVE)[0, 0].detach().cpu().numpy()
        return weight / max(float(weight.max()), 1e-12)

    return look

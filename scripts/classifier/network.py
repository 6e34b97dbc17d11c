"""The classifier's network: MONAI's EfficientNet-B0 in 3D, with an output layer that starts near zero."""

from __future__ import annotations

from typing import Any

from monai.networks.nets import EfficientNetBN
from torch import nn

HEAD_STD = 0.01  # of the output layer's first weights


def efficientnet_b0(**options: Any) -> EfficientNetBN:
    """EfficientNet-B0: volumes (B, 1, X, Y, Z) in 0..1 to logits (B, 2).

    MONAI draws the output layer from U(-1/sqrt(n), 1/sqrt(n)) for n outputs, as the original for its 1,000 classes.
    With two, the first logits differ by 10 and more, and a short training ends before it has unlearnt them: after
    three epochs on 216 phantoms the loss was ten times that of guessing. Here it starts at that of guessing.

    Args:
        options: of `EfficientNetBN`, such as `norm`.
    """
    network = EfficientNetBN(
        "efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1, num_classes=2, **options
    )
    nn.init.normal_(network._fc.weight, std=HEAD_STD)
    nn.init.zeros_(network._fc.bias)
    return network

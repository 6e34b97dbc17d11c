"""The classifier's networks, whose output layer starts near zero: one for small lesions, and the authors'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.networks.blocks import ResidualUnit
from monai.networks.nets import EfficientNetBN
from torch import Tensor, nn

from scripts.common.problems import UserError

CLASSES = 2
HEAD_STD = 0.01  # of the output layer's first weights
GROUPS = 8  # of the channels that are normalised together
STRIDE = 32  # EfficientNet halves every axis five times


class Logits(nn.Linear):
    """A linear layer whose answer is fp32 under autocast, too: bf16 would leave two digits of a probability."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F) to logits (B, K), one by one: autocast leaves that alone, on whatever device."""
        return (features.float()[:, None] * self.weight).sum(2) + self.bias


class LesionNet(nn.Module):
    """Units of little stride, and the strongest answer of all places: volumes (B, C, X, Y, Z) to logits (B, 2).

    A lesion is small: one of 10 mm fills a thousandth of the field around the gland. So the maps stay fine enough to
    hold it (5 mm on the phantom's grid, 4 mm on that of 0.5×0.5×3 mm); of each feature the largest value is taken,
    where an average would drown it among a thousand places; and norms look at one volume, the same in training and
    afterwards.

    Args:
        in_channels: sequences.
        widths: channels of each stage, multiples of 8; a stage is two units.
        strides: of each stage, one number or one along x, y, z.
        dropout: of the features before the output layer.
    """

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64),
        strides: Sequence[int | Sequence[int]] = ((2, 2, 1), (2, 2, 1), (2, 2, 2)),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        units, channels, self.stride = [], in_channels, 1
        for width, stride in zip(widths, strides, strict=True):
            self.stride *= stride if isinstance(stride, int) else stride[0]
            for step in (stride, 1):
                norm = ("group", {"num_groups": GROUPS})
                units.append(ResidualUnit(3, channels, width, strides=step, norm=norm, act="relu"))
                channels = width
        self.features = nn.Sequential(*units)
        self.dropout = nn.Dropout(dropout)
        self.output = Logits(channels, CLASSES)

    def forward(self, volume: Tensor) -> Tensor:
        """Logits of the two classes."""
        return self.output(self.dropout(self.features(volume).flatten(2).amax(2)))


def lesion_net(**options: Any) -> LesionNet:
    """`LesionNet` with an output layer that starts near zero."""
    return _undecided(LesionNet(**options))


def efficientnet_b0(**options: Any) -> EfficientNetBN:
    """EfficientNet-B0, the authors' network: volumes (B, C, X, Y, Z) in 0..1 to logits (B, 2).

    MONAI draws the output layer from U(-1/sqrt(n), 1/sqrt(n)) for n outputs, as the original for its 1,000 classes.
    With two, the first logits differ by 10 and more, and a short training ends before it has unlearnt them: after
    three epochs on 216 phantoms the loss was ten times that of guessing. Here it starts at that of guessing.

    Args:
        options: of `EfficientNetBN`, such as `in_channels` and `norm`.
    """
    fixed = {"pretrained": False, "spatial_dims": 3, "num_classes": CLASSES}
    network = EfficientNetBN("efficientnet-b0", **{"in_channels": 1} | options | fixed)
    network._fc = nn.utils.skip_init(Logits, network._fc.in_features, CLASSES)  # drawn below; others stay as they were
    return _undecided(network)


def output_layer(network: nn.Module) -> nn.Linear:
    """The layer that the logits come from: the last linear one."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def last_maps(network: nn.Module) -> str:
    """The name of the layer whose answer is pooled over all places: where one can look for what decided."""
    return "features" if isinstance(network, LesionNet) else "_bn1"


def smallest_map(network: nn.Module, spatial_size: Sequence[int]) -> int:
    """Cells along x of the smallest map that a network makes of volumes of this size."""
    return spatial_size[0] // (network.stride if isinstance(network, LesionNet) else STRIDE)


def check_size(network: nn.Module, spatial_size: Sequence[int]) -> None:
    """Whether a network takes volumes of this size.

    Raises:
        UserError: it does not.
    """
    if isinstance(network, EfficientNetBN) and min(spatial_size) < STRIDE:
        raise UserError(f"spatial_size {list(spatial_size)}: EfficientNet-B0 needs {STRIDE} or more along each axis")


def _undecided(network: nn.Module) -> Any:
    nn.init.normal_(output_layer(network).weight, std=HEAD_STD)
    nn.init.zeros_(output_layer(network).bias)
    return network

"""How far a reconstruction lies from its image in what a trained network sees, as MAISI's perceptual loss has it.

MONAI's `PerceptualLoss` fetches its networks when it is made. Here the weights are a local file, which also tells which
network they are of: MedicalNet's ResNet-50 looks at volumes, RadImageNet's ResNet-50 and torchvision's VGG16, that of
LPIPS, look at slices of all three planes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from monai.networks.nets import ResNet
from torch import Tensor, nn

from scripts.common.problems import UserError
from scripts.common.public_weights import tell_other
from scripts.engine.transfer import sent
from scripts.evaluation.features import RADIMAGENET_MEANS, medicalnet_network, radimagenet_network

Units = tuple[Sequence[float], Sequence[float]]  # means and deviations of three channels

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # channels; 0 is a pooling
SEEN = (3, 8, 15, 22, 29)  # what LPIPS looks at: the last activation before each pooling
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of images in 0..1, in RGB order
AT_ONCE = 16  # slices, where all of a volume are looked at


class PerceptualDistance(nn.Module):
    """Mean squared difference of a network's unit feature vectors, over its stages (Zhang et al., arXiv 1801.03924).

    It is LPIPS without the weights of channels that were learnt from people's judgement: every channel counts the same.

    Args:
        path: the weights' file.
        device: of the network.
        slices: how many are drawn, from the global generator, in each plane; None: all are looked at.
    """

    def __init__(
        self, path: str | os.PathLike[str], device: torch.device | str = "cpu", slices: int | None = None
    ) -> None:
        super().__init__()
        self.network, units = _read_network(path)
        self.slices, self.of_slices = slices, units is not None
        for name, part in zip(("means", "deviations"), units or ((), ()), strict=True):
            self.register_buffer(name, torch.tensor(part).view(1, -1, 1, 1), persistent=False)
        self.to(device)

    def forward(self, made: Tensor, image: Tensor) -> Tensor:
        """The distance, a scalar, between volumes (B, 1, X, Y, Z) in 0..1."""
        if not self.of_slices:  # the volume less its mean, in its deviations
            axes = (1, 2, 3, 4)
            mean, deviation = image.mean(axes, keepdim=True), image.std(axes, keepdim=True).clamp_min(1e-6)
            return self._between((made - mean) / deviation, (image - mean) / deviation)
        return torch.stack([self._in_plane(made, image, axis) for axis in (2, 3, 4)]).mean()

    def _in_plane(self, made: Tensor, image: Tensor, axis: int) -> Tensor:
        """The mean over slices across an axis."""
        count = image.shape[axis]
        if self.slices is not None and self.slices < count:
            chosen = sent(torch.randperm(count)[: self.slices], image.device)
            made, image = made.index_select(axis, chosen), image.index_select(axis, chosen)
        pairs = [volume.movedim(axis, 1).flatten(0, 1) for volume in (made, image)]  # (B·slices, 1, h, w)
        parts = zip(*(slices.split(AT_ONCE if self.slices is None else len(slices)) for slices in pairs), strict=True)
        found = [len(one) * self._between(self._as_seen(one), self._as_seen(other)) for one, other in parts]
        return torch.stack(found).sum() / len(pairs[0])

    def _as_seen(self, slices: Tensor) -> Tensor:
        """Slices (N, 1, h, w) in the three channels and units of the network's training."""
        return (slices - self.means) / self.deviations

    def _between(self, made: Tensor, image: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = [_unit(stage) for stage in _stages(self.network, image)]
        pairs = zip(_stages(self.network, made), wanted, strict=True)
        return torch.stack([(_unit(stage) - unit).square().sum(1).mean() for stage, unit in pairs]).mean()


def perceptual_distance(
    path: str | os.PathLike[str] | None, device: torch.device | str = "cpu", slices: int | None = None
) -> PerceptualDistance | None:
    """The distance by the network in a file; None where none is given.

    Raises:
        UserError: see `PerceptualDistance`.
    """
    return None if path is None else PerceptualDistance(path, device, slices)


def _unit(stage: Tensor) -> Tensor:
    """Feature vectors (B, C, ...) of length 1."""
    return nn.functional.normalize(stage.float(), dim=1, eps=1e-10)


def _stages(network: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """What comes out of each stage of a network."""
    if isinstance(network, ResNet):
        x = network.maxpool(network.act(network.bn1(network.conv1(x))))
        for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = layer(x)
            yield x
        return
    for number, layer in enumerate(network):
        x = layer(x)
        if number in SEEN:
            yield x


def _read_network(path: str | os.PathLike[str]) -> tuple[nn.Module, Units | None]:
    """The network whose weights a file holds; mean and deviation of its channels, None where it looks at volumes.

    Raises:
        UserError: the file is missing, is not one of weights only, or is of none of the three networks.
    """
    if not Path(path).is_file():
        raise UserError(f"perceptual_file {path} is missing: give the file's path, or null for no perceptual distance")
    tell_other(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        first = {name.removeprefix("module."): tensor.ndim for name, tensor in state.items()}
    except Exception:  # whatever the broken or foreign bytes lead to
        raise UserError(f"perceptual_file {path} is not a file of weights only: copy it again") from None
    if first.get("conv1.weight") == 5:
        return medicalnet_network(path), None
    if "features.0.weight" in first:
        return _vgg16(state, path), IMAGENET
    return radimagenet_network(path), (RADIMAGENET_MEANS, (1.0, 1.0, 1.0))


def _vgg16(state: dict[str, Tensor], path: str | os.PathLike[str]) -> nn.Sequential:
    """The convolutions of torchvision's VGG16, as far as LPIPS looks."""
    layers: list[nn.Module] = []
    before = 3
    for channels in VGG16:
        if channels:
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        else:
            layers.append(nn.MaxPool2d(2))
    network = nn.Sequential(*layers)
    own = {name.removeprefix("features."): one for name, one in state.items() if name.startswith("features.")}
    try:
        network.load_state_dict(own)
    except RuntimeError:
        raise UserError(f"perceptual_file {path} is of another network than torchvision's VGG16") from None
    return network.eval().requires_grad_(False)

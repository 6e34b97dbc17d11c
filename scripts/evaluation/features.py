"""Feature vectors of volumes, for distances between sets of volumes.

Three extractors, all fed with one volume (1, X, Y, Z) in 0..1:
- `medicalnet`: MedicalNet's 3D ResNet-50 (23 datasets), 2048 features, mean over space. Published figures use it.
- `radimagenet`: RadImageNet's 2D ResNet-50 on every slice of one plane, 2048 features a slice, mean over space.
- `phantom`: 128 features of small fixed filters, made from a seed; no download, quick on a CPU. Its distances compare
  runs of this project with each other, not with published figures.
No weights are fetched: the first two read a local file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.nets import ResNet, resnet50
from torch import Tensor, nn

from scripts.common.problems import UserError
from scripts.common.public_weights import tell_other

Extractor = Callable[[Tensor], Tensor]
RADIMAGENET_MEANS = (0.406, 0.456, 0.485)  # of its training's images in 0..1, in BGR order
PLANES = {"sagittal": 1, "coronal": 2, "axial": 3}  # the axis that is cut, in (1, X, Y, Z)

_SOURCES = {
    "MedicalNet": (
        "resnet_50_23dataset.pth",
        "https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet50",
        "MIT licence of Tencent MedicalNet",
    ),
    "RadImageNet": (
        "RadImageNet-ResNet50_notop.pth (or ResNet50.pt of the RadImageNet release)",
        "https://github.com/BMEII-AI/RadImageNet",
        "RadImageNet's own terms: read them before use",
    ),
}


def _read_weights(name: str, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    file, source, licence = _SOURCES[name]
    if not path or not Path(path).is_file():
        raise UserError(
            f"{name} weights not found at {str(path)!r}: download {file} from {source} ({licence}) into "
            "bundles/ccella_ldm/models and give its path, or choose the `phantom` features"
        )
    tell_other(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the broken or foreign bytes lead to
        raise UserError(f"{path}: is not a file of weights only; download {file} from {source}") from None
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def standardised(vectors: Tensor, reference: Tensor) -> Tensor:
    """Phantom features (N, D), which have units of their own, in standard deviations of a reference set (M, D)."""
    return (vectors - reference.mean(0)) / reference.std(0).clamp_min(1e-6)


def _load(network: ResNet, state: dict[str, Tensor], path: str | os.PathLike[str]) -> ResNet:
    expected = network.state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    wrong = sorted({*expected, *state} - {n for n in state if n in expected and state[n].shape == expected[n].shape})
    # Counters of batches play no part in evaluation, and older files lack them.
    wrong = [name for name in wrong if not name.endswith("num_batches_tracked")]
    if wrong:
        raise UserError(f"{path}: is not a ResNet-50 as expected: {len(wrong)} tensors differ, the first is {wrong[0]}")
    network.load_state_dict(state, strict=False)
    return network.eval().requires_grad_(False)


def medicalnet_network(path: str | os.PathLike[str]) -> ResNet:
    """MedicalNet ResNet-50 (Chen et al., arXiv 1904.00625), in evaluation mode and without gradients of its weights.

    Raises:
        UserError: the weights are missing or of another network.
    """
    network = resnet50(spatial_dims=3, n_input_channels=1, conv1_t_stride=2, feed_forward=False, bias_downsample=False)
    # MedicalNet keeps the resolution in its last two stages and dilates instead; MONAI's ResNet strides.
    for layer, dilation in ((network.layer3, 2), (network.layer4, 4)):
        for conv in (module for module in layer.modules() if isinstance(module, nn.Conv3d)):
            conv.stride = (1, 1, 1)
            if conv.kernel_size == (3, 3, 3):
                conv.dilation = conv.padding = (dilation,) * 3
    return _load(network, _read_weights("MedicalNet", path), path)


def medicalnet(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Extractor:
    """Features of `medicalnet_network`; the volume is normalised to mean 0 and deviation 1.

    Raises:
        UserError: the weights are missing or of another network.
    """
    network = medicalnet_network(path).to(device)

    @torch.no_grad()
    def extract(volume: Tensor) -> Tensor:
        """(1, X, Y, Z) -> (2048,)"""
        volume = volume.to(device, torch.float32)
        return network(((volume - volume.mean()) / volume.std().clamp_min(1e-6))[None])[0].cpu()

    return extract


def radimagenet_network(path: str | os.PathLike[str]) -> ResNet:
    """RadImageNet ResNet-50 (Mei et al. 2022), in evaluation mode and without gradients of its weights.

    Raises:
        UserError: the weights are missing or of another network.
    """
    network = resnet50(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False, bias_downsample=False)
    return _load(network, _as_torch(_read_weights("RadImageNet", path), network), path)


def radimagenet(path: str | os.PathLike[str], plane: str, device: torch.device | str = "cpu") -> Extractor:
    """Features of `radimagenet_network` of all slices of `plane`.

    One channel is repeated to three, in BGR order, less the means of training.

    Raises:
        UserError: the weights are missing or of another network.
    """
    network = radimagenet_network(path).to(device)
    means = torch.tensor(RADIMAGENET_MEANS, device=device).view(1, 3, 1, 1)

    @torch.no_grad()
    def extract(volume: Tensor) -> Tensor:
        """(1, X, Y, Z) -> (slices, 2048)"""
        slices = volume.to(device, torch.float32).movedim(PLANES[plane], 0)
        return torch.cat([network(batch.repeat(1, 3, 1, 1) - means).cpu() for batch in slices.split(16)])

    return extract


def _as_torch(state: dict[str, Tensor], network: ResNet) -> dict[str, Tensor]:
    """RadImageNet's state dict under the names of `network`, which is changed where the Keras original differs.

    Two files are about: RadImageNet's PyTorch release numbers the stages (`backbone.0` ...); the one converted from
    Keras has torchvision's names, but strides in a block's first convolution, convolutions with a bias, another eps.
    """
    stages = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    named = {}
    for name, tensor in state.items():
        parts = name.removeprefix("backbone.").split(".")
        named[".".join([stages.get(parts[0], parts[0]), *parts[1:]])] = tensor
    if "conv1.bias" not in named:
        return named
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1.001e-5
    for block in (block for stage in (network.layer2, network.layer3, network.layer4) for block in stage):
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    # In evaluation a bias before a batch norm is the same as a lower running mean.
    biases = [name for name in named if name.endswith(".bias")]
    for bias in [name for name in biases if name.removesuffix("bias") + "running_mean" not in named]:
        norm = bias.removesuffix("bias").replace("conv", "bn").replace("downsample.0", "downsample.1")
        named[norm + "running_mean"] = named[norm + "running_mean"] - named.pop(bias)
    return named


def phantom(seed: int = 0) -> Extractor:
    """128 features of fixed filters: how strong each of 16 textures is, at four scales, its mean and its deviation.

    The filters are 3×3×3, made from `seed`, without a constant part and of unit length. A scale is the volume averaged
    over 1, 2, 4, 8 voxels; the strength of a texture is the filter's absolute response. The first filter of each scale
    is the local mean instead, so that brightness counts too.
    """
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(16, 1, 3, 3, 3, generator=generator)
    filters -= filters.mean((2, 3, 4), keepdim=True)
    filters[0] = 1 / 27
    filters[1:] /= filters[1:].flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)

    @torch.no_grad()
    def extract(volume: Tensor) -> Tensor:
        """(1, X, Y, Z) -> (128,)"""
        volume = volume.detach().cpu().float()
        if min(volume.shape[1:]) < 8:
            raise UserError(f"phantom features need 8 voxels or more in every axis, got {tuple(volume.shape[1:])}")
        features = []
        for scale in (1, 2, 4, 8):
            smaller = F.avg_pool3d(volume[None], scale)
            padded = F.pad(smaller, (1,) * 6, mode="replicate")
            responses = F.conv3d(padded, filters).abs().flatten(2)[0]
            features += [responses.mean(1), responses.std(1, correction=0)]
        return torch.cat(features)

    return extract

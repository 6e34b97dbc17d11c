"""The distance by a trained network: which network a file holds, and what the distance is."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import resnet50
from torch import nn

from scripts.common.problems import UserError
from scripts.vae.losses import VAELoss
from scripts.vae.perceptual import SEEN, VGG16, PerceptualDistance, perceptual_distance

KINDS = ("medicalnet", "radimagenet", "vgg16")


def resnet(dimensions: int, channels: int) -> nn.Module:
    return resnet50(
        spatial_dims=dimensions, n_input_channels=channels, conv1_t_stride=2, feed_forward=False, bias_downsample=False
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict:
    """Random weights as the published files name them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    vgg, before = {"classifier.0.weight": torch.zeros(2, 2)}, 3
    for number, channels in zip(layers(), [channels for channels in VGG16 if channels], strict=True):
        conv = nn.Conv2d(before, channels, 3)
        vgg |= {f"features.{number}.{name}": one for name, one in conv.state_dict().items()}
        before = channels
    volumes = {"state_dict": {f"module.{name}": one for name, one in resnet(3, 1).state_dict().items()}}
    states = dict(zip(KINDS, (volumes, resnet(2, 3).state_dict(), vgg), strict=True))
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in states}


def layers() -> list[int]:
    """Where torchvision's VGG16 has its convolutions."""
    return [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def volume(seed: int, size: tuple[int, ...] = (2, 1, 32, 32, 32)) -> torch.Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_zero_for_the_image_itself_and_pulls_towards_it(files, kind):
    distance, image = PerceptualDistance(files[kind], slices=2), volume(0)
    made = (image + 0.1 * volume(1)).requires_grad_()
    assert distance(image, image).item() == 0
    found = distance(made, image)
    assert found.item() > 0
    found.backward()
    step = made.detach() - 0.01 * made.grad / made.grad.norm()
    torch.manual_seed(3)
    before = distance(made.detach(), image)
    torch.manual_seed(3)  # the same slices
    assert distance(step, image) < before
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_of_slices_it_is_the_mean_over_planes_slices_and_stages(files):
    distance, made, image = (
        PerceptualDistance(files["vgg16"]),
        volume(0, (1, 1, 32, 32, 32)),
        volume(1, (1, 1, 32, 32, 32)),
    )
    means, deviations = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def stages(slice_: torch.Tensor) -> list[torch.Tensor]:
        x, found = ((slice_[None] - means[:, None, None]) / deviations[:, None, None])[None], []
        for number, layer in enumerate(distance.network):
            x = layer(x)
            if number in SEEN:
                found.append(x / x.norm(dim=1, keepdim=True))
        return found

    terms = []
    for plane in range(3):
        for one, other in zip(made[0, 0].unbind(plane), image[0, 0].unbind(plane), strict=True):
            pairs = zip(stages(one), stages(other), strict=True)
            terms.append(sum(((a - b) ** 2).sum(1).mean() for a, b in pairs) / len(SEEN))
    with torch.no_grad():
        torch.testing.assert_close(distance(made, image), sum(terms) / len(terms), rtol=1e-4, atol=1e-6)


def test_slices_are_drawn_by_the_global_seed(files):
    distance = PerceptualDistance(files["radimagenet"], slices=2)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(distance(volume(0), volume(1)).item())
    assert found[0] == found[1] != found[2]


def test_medicalnet_sees_volumes_in_the_images_units(files):
    distance, made, image = PerceptualDistance(files["medicalnet"]), volume(0), volume(1)
    with torch.no_grad():
        torch.testing.assert_close(distance(3 * made + 2, 3 * image + 2), distance(made, image), rtol=1e-2, atol=1e-5)
        assert distance(made + 0.5, image) > 1.01 * distance(made, image)  # and brightness counts


def test_it_counts_in_the_loss_with_its_weight(files):
    distance, image, made = PerceptualDistance(files["vgg16"]), volume(0), volume(1)
    prediction = (made, torch.ones(2, 4, 1, 1, 1), torch.ones(2, 4, 1, 1, 1))
    plain, more = VAELoss()(prediction, image), VAELoss(perceptual=distance, perceptual_weight=0.5)(prediction, image)
    torch.testing.assert_close(more - plain, 0.5 * distance(made, image))


def test_no_file_is_no_distance():
    assert perceptual_distance(None) is None


@pytest.mark.parametrize("content", [b"not weights", {"features.0.weight": torch.zeros(1)}, {"layer9": torch.zeros(1)}])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"weights\.pth.* is (not a file of weights|of another|not a ResNet)"):
        PerceptualDistance(str(path))
    with pytest.raises(UserError, match="missing"):
        PerceptualDistance(str(tmp_path / "none.pth"))

import pytest
import torch
from monai.networks.nets import resnet50

from scripts.common.problems import UserError
from scripts.evaluation import features


def volume(seed=0, size=(16, 16, 16)):
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(seed))


def smoothed(x):
    return torch.nn.functional.avg_pool3d(x, 3, 1, 1, count_include_pad=False)


def test_phantom_features_are_the_same_everywhere_and_always():
    first, again, other_seed = features.phantom()(volume()), features.phantom()(volume()), features.phantom(1)(volume())
    assert first.shape == (128,)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other_seed)


def test_phantom_features_see_blur_brightness_and_a_dark_spot():
    extract = features.phantom()
    plain = volume(size=(32, 32, 32)) * 0.1 + 0.5
    dark = plain.clone()
    dark[:, 10:16, 10:16, 10:16] = 0.1
    distances = [float((extract(x) - extract(plain)).norm()) for x in (smoothed(plain), plain + 0.1, dark)]
    noise = float((extract(volume(1, (32, 32, 32)) * 0.1 + 0.5) - extract(plain)).norm())
    assert min(distances) > 5 * noise


def test_phantom_features_refuse_too_small_a_volume():
    with pytest.raises(UserError, match="8 voxels"):
        features.phantom()(volume(size=(4, 16, 16)))


@pytest.mark.parametrize("make", [features.medicalnet, lambda path: features.radimagenet(path, "axial")])
def test_missing_weights_say_what_from_where_and_under_which_terms(make, tmp_path):
    for path in ("", tmp_path / "no.pth"):
        with pytest.raises(UserError, match=r"download .* from https://.*(licence|terms).* into bundles/.*/models"):
            make(path)


@pytest.mark.parametrize("content", [b"not weights", None])
def test_foreign_weights_are_refused(content, tmp_path):
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save({"conv1.weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="weights"):
        features.medicalnet(path)


@pytest.fixture(scope="module")
def net3d():
    torch.manual_seed(0)
    return resnet50(spatial_dims=3, n_input_channels=1, conv1_t_stride=2, feed_forward=False, bias_downsample=False)


@pytest.fixture(scope="module")
def net2d():
    torch.manual_seed(0)
    return resnet50(
        spatial_dims=2, n_input_channels=3, conv1_t_stride=2, feed_forward=False, bias_downsample=False
    ).eval()


def test_medicalnet_reads_the_published_layout_and_keeps_its_resolution(net3d, tmp_path):
    torch.save({"state_dict": {f"module.{name}": t for name, t in net3d.state_dict().items()}}, tmp_path / "net.pth")
    extract = features.medicalnet(tmp_path / "net.pth")
    result = extract(volume())
    assert result.shape == (2048,)
    assert torch.allclose(result, extract(volume() * 7 + 3), atol=1e-4)  # normalised: units do not matter


def test_radimagenet_takes_every_slice_of_a_plane(net2d, tmp_path):
    torch.save(net2d.state_dict(), tmp_path / "net.pth")
    x = volume(size=(16, 20, 24))
    for plane, count in (("sagittal", 16), ("coronal", 20), ("axial", 24)):
        assert features.radimagenet(tmp_path / "net.pth", plane)(x).shape == (count, 2048)
    means = torch.tensor([0.406, 0.456, 0.485]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = net2d(x[..., 5].repeat(3, 1, 1)[None] - means)[0]
    assert torch.allclose(features.radimagenet(tmp_path / "net.pth", "axial")(x)[5], expected, atol=1e-4)


def test_radimagenet_reads_numbered_stages(net2d, tmp_path):
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    state = {}
    for name, tensor in net2d.state_dict().items():
        first, rest = name.split(".", 1)
        state[f"backbone.{numbers[first]}.{rest}"] = tensor
    torch.save(state, tmp_path / "numbered.pt")
    torch.save(net2d.state_dict(), tmp_path / "named.pt")
    numbered, named = (features.radimagenet(tmp_path / f"{n}.pt", "axial") for n in ("numbered", "named"))
    assert torch.allclose(numbered(volume()), named(volume()))


def test_radimagenet_takes_the_biases_of_the_file_converted_from_keras(net2d, tmp_path):
    # A bias b before a batch norm equals a running mean lowered by b: both files describe the same network.
    state = dict(net2d.state_dict())
    plain, biased = {}, {}
    for name, tensor in state.items():
        plain[name] = biased[name] = tensor
    for name in [name for name in state if name.endswith("weight") and state[name].ndim == 4]:
        bias = torch.linspace(-0.1, 0.1, state[name].shape[0])
        norm = name.removesuffix("weight").replace("conv", "bn").replace("downsample.0", "downsample.1")
        biased[name.removesuffix("weight") + "bias"] = bias
        biased[norm + "running_mean"] = state[norm + "running_mean"] + bias
    plain["conv1.bias"] = torch.zeros(64)  # marks the Keras layout
    torch.save(plain, tmp_path / "plain.pth")
    torch.save(biased, tmp_path / "biased.pth")
    first, second = (features.radimagenet(tmp_path / f"{n}.pth", "axial") for n in ("plain", "biased"))
    assert torch.allclose(first(volume()), second(volume()), atol=1e-4)

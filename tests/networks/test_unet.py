"""The U-Net is MONAI's own, with one more part in its time embedding."""

import pytest
import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch.utils.flop_counter import FlopCounterMode

import tiny
from scripts.networks.unet import ClassConditionedUNet, FoldedUpsample, fold_upsampling

SIZES = {"spatial_dims": 3, "in_channels": 4, "out_channels": 4, "include_spacing_input": True, **tiny.UNET}
X = torch.randn(2, 4, 8, 8, 4, generator=torch.Generator().manual_seed(0))
TIME, SPACING = torch.tensor([3.0, 700.0]), torch.tensor([[50.0, 50.0, 56.25], [50.0, 50.0, 300.0]])


def fill(network):
    """Give zero-initialised layers values, so that every input reaches the output."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def test_without_a_class_it_is_monais_network():
    theirs = fill(DiffusionModelUNetMaisi(**SIZES))
    ours = ClassConditionedUNet(include_pirads_input=False, **SIZES).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(ours(X, TIME, spacing_tensor=SPACING), theirs(X, TIME, spacing_tensor=SPACING))


def test_the_class_stands_between_time_and_spacing():
    # MONAI's region index stands there too, four wide: with two inputs at zero it is a class vector.
    ours = fill(ClassConditionedUNet(**SIZES))
    theirs = DiffusionModelUNetMaisi(**SIZES, include_top_region_index_input=True).eval()
    state = {name.replace("pirads_layer", "top_region_index_layer"): t for name, t in ours.state_dict().items()}
    first = "top_region_index_layer.0.weight"
    state[first] = torch.cat((state[first], torch.ones_like(state[first])), dim=1)
    theirs.load_state_dict(state, strict=True)
    vector = torch.tensor([[25.0, 75.0], [100.0, 0.0]])
    region = torch.cat((vector, torch.zeros(2, 2)), dim=1)
    with torch.no_grad():
        expected = theirs(X, TIME, top_region_index_tensor=region, spacing_tensor=SPACING)
        answer = ours(X, TIME, class_labels=vector, spacing_tensor=SPACING)
        other = ours(X, TIME, class_labels=vector.flip(1), spacing_tensor=SPACING)
    torch.testing.assert_close(answer, expected)
    assert not torch.allclose(answer, other)


def test_fused_attention_may_be_asked_for_without_a_gpu():
    network = ClassConditionedUNet(**SIZES, use_flash_attention=True)
    assert network(X, TIME, class_labels=torch.eye(2), spacing_tensor=SPACING).shape == X.shape


def test_folded_upsampling_gives_the_same_answer_with_fewer_products():
    network = fill(ClassConditionedUNet(**SIZES))
    given = {"class_labels": torch.eye(2), "spacing_tensor": SPACING}

    def ask() -> tuple[torch.Tensor, int]:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            return network(X, TIME, **given), counter.get_total_flops()

    expected, products = ask()
    fold_upsampling(network)
    answer, fewer = ask()
    assert sum(isinstance(module, FoldedUpsample) for module in network.modules()) == len(SIZES["num_channels"]) - 1
    assert (answer - expected).abs().max() < 1e-5 * expected.std()
    assert fewer < products


@pytest.mark.parametrize("size", [(1, 2, 3), (4, 3, 1)])
def test_a_folded_upsampling_equals_both_parts_up_to_the_borders(size):
    convolution = torch.nn.Conv3d(5, 5, 3, padding=1).double()
    x = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0)).double()
    expected = convolution(torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(FoldedUpsample(convolution).double()(x), expected)

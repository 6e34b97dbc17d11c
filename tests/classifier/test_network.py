"""The classifier's networks start without an opinion, and see a small lesion wherever it is."""

import pytest
import torch
from monai.networks.utils import eval_mode

from scripts.classifier.network import check_size, efficientnet_b0, last_maps, lesion_net, smallest_map
from scripts.classifier.training import start_network
from scripts.common.problems import UserError

SMALL = {"widths": (8, 8), "strides": (2, 2)}


@pytest.mark.parametrize("make", [efficientnet_b0, lesion_net])
def test_first_predictions_are_near_one_half(make):
    torch.manual_seed(0)
    network = make(in_channels=2)
    with torch.no_grad():
        logits = network(torch.rand(4, 2, 32, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 2)
    assert (logits[:, 1] - logits[:, 0]).abs().max() < 2
    assert last_maps(network) in dict(network.named_modules())


def test_a_first_answer_is_the_share_of_positives():
    torch.manual_seed(0)
    cases = [{"label": [1]}, *[{"label": [0]}] * 9]
    network = start_network(lesion_net(**SMALL), cases, [16, 16, 16])
    network.output.weight.data.zero_()
    assert network(torch.rand(1, 1, 16, 16, 16)).softmax(1)[0, 1].item() == pytest.approx(0.1)


def test_where_a_lesion_lies_does_not_matter():
    """Moved by whole steps of the last maps, away from the border, it gives the same answer."""
    torch.manual_seed(0)
    network = lesion_net(**SMALL)
    network.output.weight.data.normal_()
    answers = []
    for place in (24, 32):
        volume = torch.zeros(1, 1, 64, 64, 64)
        volume[:, :, place : place + 3, place : place + 3, 28:31] = 1
        with eval_mode(network):
            answers.append(network(volume))
    assert torch.allclose(*answers, rtol=1e-3)
    with eval_mode(network):
        assert not torch.allclose(answers[0], network(torch.zeros(1, 1, 64, 64, 64)), rtol=0.1)


def test_an_answer_depends_on_no_other_volume_of_the_batch():
    torch.manual_seed(0)
    network = lesion_net(**SMALL)
    volumes = torch.rand(3, 1, 16, 16, 16)
    network.train()
    network.dropout.p = 0.0
    assert torch.allclose(network(volumes)[:1], network(volumes[:1]), atol=1e-5)


def test_a_size_that_efficientnet_cannot_halve_five_times_is_refused():
    check_size(lesion_net(**SMALL), [16, 16, 8])
    with pytest.raises(UserError, match=r"\[64, 64, 16\].*32 or more"):
        check_size(efficientnet_b0(), [64, 64, 16])


def test_the_smallest_map_is_what_the_strides_leave():
    assert smallest_map(lesion_net(**SMALL), [64, 32, 8]) == 16
    assert smallest_map(lesion_net(), [256, 256, 32]) == 32
    assert smallest_map(efficientnet_b0(), [64, 64, 32]) == 2


@pytest.mark.parametrize("make", [efficientnet_b0, lesion_net])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_are_fp32_in_whatever_precision_the_maps_are(make, dtype):
    torch.manual_seed(0)
    network = make().eval()
    volume = torch.rand(2, 1, 32, 32, 32)
    expected = network(volume)
    with torch.autocast("cpu", dtype):
        found = network(volume)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.01)
    assert not torch.equal(found, expected)  # the maps were not fp32

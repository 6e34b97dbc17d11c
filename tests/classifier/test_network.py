"""The classifier's network starts without an opinion."""

import torch

from scripts.classifier.network import efficientnet_b0


def test_first_predictions_are_near_one_half():
    torch.manual_seed(0)
    network = efficientnet_b0()
    with torch.no_grad():
        logits = network(torch.rand(4, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (4, 2)
    assert (logits[:, 1] - logits[:, 0]).abs().max() < 2

"""The adapter's pieces against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from scripts.networks.adapter import Adapter, AdaptiveLayerNorm, ClassHead, SquaredReLUMLP

SIZES = {
    "width": 8,
    "layers": 3,
    "heads": 2,
    "num_latents": 4,
    "input_dim": 6,
    "time_channel": 10,
    "time_embed_dim": 12,
    "class_hidden": 5,
}


def make(heads_after=None):
    torch.manual_seed(0)
    return Adapter(**SIZES, heads_after=heads_after, gradient_checkpointing=False).eval()


def test_adaptive_norm_starts_as_plain_norm():
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(AdaptiveLayerNorm(8, 12)(x, torch.randn(2, 12)), F.layer_norm(x, (8,), eps=1e-6))


def test_adaptive_norm_reads_the_shift_first_and_the_scale_second():
    norm, x = AdaptiveLayerNorm(8, 12), torch.randn(2, 3, 8)
    with torch.no_grad():
        norm.linear.bias[:8] = 0.5
        norm.linear.bias[8:] = 2.0
    torch.testing.assert_close(norm(x, torch.zeros(2, 12)), F.layer_norm(x, (8,), eps=1e-6) * 3 + 0.5)


def test_mlp_squares_what_is_positive():
    mlp = SquaredReLUMLP(1)
    with torch.no_grad():
        mlp.c_fc.weight.copy_(torch.tensor([[1.0], [-1.0], [2.0], [0.0]]))
        mlp.c_fc.bias.zero_()
        mlp.c_proj.weight.fill_(1.0)
        mlp.c_proj.bias.zero_()
    # 3 -> relu (3, 0, 6, 0) -> squares 9 + 36; -3 -> (0, 3, 0, 0) -> 9
    assert mlp(torch.tensor([[3.0], [-3.0]])).flatten().tolist() == [45.0, 9.0]


def test_class_head_reads_the_flattened_latents():
    head, latents = ClassHead(32, 5), torch.randn(2, 4, 8)
    expected = head.fc2(F.relu(head.fc1(latents.reshape(2, 32))))
    torch.testing.assert_close(head(latents), expected)


def test_time_feature_has_the_cosines_first():
    adapter, seen = make(), []
    adapter.time_embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    adapter(torch.randn(1, 2, 6), torch.tensor([7.0]))
    angles = [7.0 * 10000 ** (-i / 5) for i in range(5)]
    expected = [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
    assert seen[0][0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("heads_after", "count"), [(None, 0), ("last", 0), ("first", 1), ("shared", 3), ("each", 3)])
def test_class_heads_answer_where_they_stand(heads_after, count):
    context, logits = make(heads_after)(torch.randn(2, 5, 6), torch.tensor([1.0, 2.0]))
    assert context.shape == (2, 4, 8)
    assert [tuple(pair.shape) for pair in logits] == [(2, 2)] * count


def test_the_context_depends_on_the_timestep_and_on_every_token():
    adapter, text = make(), torch.randn(1, 5, 6)
    with torch.no_grad():
        early, late = adapter(text, torch.tensor([1.0, 900.0]))[0]
        assert not torch.allclose(early, late)
        for token in range(5):
            changed = text.clone()
            changed[0, token] += 1
            assert not torch.allclose(adapter(changed, torch.tensor([1.0]))[0][0], early)

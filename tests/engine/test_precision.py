"""Which precision is meant by which name, on which device; and weights that are cast once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import nn

import tiny
from scripts.common.problems import UserError
from scripts.engine.precision import PRECISIONS, PreciseInferer, half_weights, precision, settled
from scripts.networks.ccella import CCELLA
from scripts.networks.unet import fold_upsampling
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.network import maisi_vae

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_is_bf16_on_a_gpu_that_computes_in_it(monkeypatch, capability, name):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert settled("auto", GPU) == name


def test_auto_is_fp32_on_a_processor():
    assert settled("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize("name", PRECISIONS)
def test_what_is_named_is_meant(name):
    assert settled(name, GPU) == name


@pytest.mark.parametrize("look_up", [precision, lambda amp: settled(amp, GPU)])
def test_an_unknown_name_is_refused(look_up):
    with pytest.raises(UserError, match="int8"):
        look_up("int8")


# ---- weights in half precision ---------------------------------------------------------------------------------------


@pytest.fixture
def ccella():
    torch.manual_seed(0)
    network = CCELLA("CCELLA", **tiny.CCELLA).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def ask_ccella(network: CCELLA) -> list[torch.Tensor]:
    """Adapter and U-Net, each alone."""
    generator = torch.Generator().manual_seed(1)
    text, mask = torch.randn(1, 5, 12, generator=generator).half(), torch.tensor([[True] * 4 + [False]])
    given = network.condition(text, torch.tensor([500.0, 20.0]), mask)
    x, classes = torch.randn(2, 4, 8, 8, 8, generator=generator), torch.tensor([[30.0, 70.0], [100.0, 0.0]])
    answer = network.denoise(x, torch.tensor([500.0, 20.0]), given.context, classes, torch.ones(2, 3))
    return [answer, given.context, given.class_logits]


def ask_vae(network: AutoencoderKlMaisi) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image, latent = torch.rand(1, 1, 16, 16, 16, generator=generator), torch.randn(1, 4, 4, 4, 4, generator=generator)
    return [*encode(network, image), decode(network, latent)]


def check_same_answers(network: nn.Module, ask: Callable[[nn.Module], list[torch.Tensor]]) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = ask(network)
        half_weights(network, torch.bfloat16)
        after = ask(network)
    for one, other in zip(before, after, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


@pytest.mark.parametrize("prepare", [lambda unet: None, fold_upsampling], ids=["as trained", "folded"])
def test_adapter_and_unet_answer_the_same_with_half_weights(ccella, prepare):
    prepare(ccella.unet)
    check_same_answers(ccella, ask_ccella)


def test_the_vae_answers_the_same_with_half_weights():
    torch.manual_seed(0)
    check_same_answers(maisi_vae(**tiny.VAE).eval(), ask_vae)


@torch.no_grad()
def test_fp32_leaves_the_weights_alone(ccella):
    before = {name: weight.clone() for name, weight in ccella.state_dict().items()}
    half_weights(ccella, None)
    assert all(torch.equal(weight, before[name]) for name, weight in ccella.state_dict().items())


def test_norms_and_loose_parameters_stay_in_fp32_and_the_rest_is_halved(ccella):
    half_weights(ccella, torch.bfloat16)
    types = {name: weight.dtype for name, weight in ccella.named_parameters()}
    wide = {name for name, dtype in types.items() if dtype == torch.float32}
    norms = {
        f"{name}.{part}"
        for name, module in ccella.named_modules()
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm))
        for part, _ in module.named_parameters(recurse=False)
    }
    assert norms
    assert wide == norms | {"ella.connector.latents"}


def test_precision_of_the_network_is_chosen_by_name():
    network, cpu = nn.Linear(4, 4), torch.device("cpu")
    types = [PreciseInferer(amp, cpu, 4)(torch.ones(1, 4), network).dtype for amp in ("fp32", "bf16", "fp16")]
    assert types == [torch.float32, torch.bfloat16, torch.float16]
    with pytest.raises(UserError, match="amp"):
        PreciseInferer("half", cpu, 4)


def test_bf16_is_refused_where_the_cpu_computes_wrong_gradients():
    with pytest.raises(UserError, match="2 cells along x"):
        PreciseInferer("bf16", torch.device("cpu"), 2)
    assert PreciseInferer("bf16", torch.device("cuda"), 2).dtype is torch.bfloat16

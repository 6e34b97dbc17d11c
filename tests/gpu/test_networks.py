"""One answer of a network: the authors' own, in bf16, compiled, and captured."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch
from torch import Tensor

from closeness import all_apart, apart
from reference_cases import FILES, MISSING, TOLERANCE, answers
from scripts.engine.precision import PRECISIONS
from scripts.engine.replay import Replayed
from scripts.reports.encoder import ReportEncoder
from scripts.showcase.counting import peak_bytes
from scripts.showcase.demo import EXAMPLES
from scripts.showcase.memory import STEPS
from scripts.showcase.stages import DEMO_T5
from scripts.showcase.subjects import Size, unet

pytestmark = pytest.mark.gpu

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
ONE_CASE = (100.0, 0.0)


def inputs(network, device: torch.device, batch: int, timestep: float, seed: int = 0) -> tuple[Tensor, ...]:
    """Of `denoise`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    given = (
        draw(batch, 4, 8, 8, 8),
        torch.full((batch,), timestep),
        draw(batch, network.config["num_latents"], network.config["width"]),
        torch.tensor([ONE_CASE] * batch),
        torch.full((batch, 3), 0.5),
    )
    return tuple(tensor.to(device) for tensor in given)


@pytest.mark.skipif(not FILES, reason=MISSING)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_the_authors(device, path, record_property):
    for name, (ours, expected) in answers(path, device).items():
        record_property(name, (ours - expected).abs().max().item())
        torch.testing.assert_close(ours, expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_bf16_answers_as_fp32_does(device, demo, record_property):
    """The adapter and one step of the U-Net, with trained weights. A CPU gives 0.005 and 0.005."""
    text, times = demo.embeddings[0][None].to(device), torch.tensor([500.0], device=device)
    shape = demo.size.latent if device.type == "cuda" else (demo.size.latent[0], 16, 4, 4)  # a CPU's bf16 takes long
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    spacing = torch.tensor([[1.25, 1.25, 1.875]], device=device)

    def ask() -> tuple[Tensor, Tensor]:
        given = demo.network.condition(text, times)
        classes = demo.network.class_vector(given.class_logits, None)
        return given.context, demo.network.denoise(x, times, given.context, classes, spacing)

    full = ask()
    with torch.autocast(device.type, torch.bfloat16):
        half = ask()
    for name, one, other in zip(("adapter", "unet"), half, full, strict=True):
        record_property(name, apart(one, other))
        assert apart(one, other) < 0.03


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_guided_step_takes_the_memory_that_was_counted(device, precision, record_property):
    """At the reference size, weights included: at most a tenth and 1 GiB more, as docs/memory.md has it; GiB."""
    if device.type == "cpu":
        pytest.skip("PyTorch counts the memory of GPUs alone")
    dtype = PRECISIONS[precision]
    counted = peak_bytes(STEPS["U-Net, two answers: a guided volume"], dtype) / 2**30
    before = torch.cuda.memory_allocated(device)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        step = unet(Size(), device, dtype=dtype, answers=2)
        step()  # tries kernels, some of which take more
        torch.cuda.reset_peak_memory_stats(device)
        step()
    measured = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    record_property("measured", measured)
    record_property("counted", counted)
    assert counted / 3 <= measured <= 1.1 * counted + 1


@pytest.fixture
def compiler(device):
    """What compiles on a GPU."""
    if device.type == "cpu":
        pytest.skip("networks are compiled for GPUs alone")
    if importlib.util.find_spec("triton") is None or COMPILER is None:
        pytest.skip("compiling needs triton and a C compiler")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
def test_compiled_answers_as_eager_does(device, tiny_network, compiler, record_property):
    given = inputs(tiny_network, device, 2, 500.0)
    expected = tiny_network.denoise(*given)
    tiny_network.unet.compile(dynamic=False)
    found = tiny_network.denoise(*given)
    record_property("apart", apart(found, expected))
    assert apart(found, expected) < 1e-5


def test_compiled_learns_as_eager_does(device, tiny_network, compiler, record_property):
    """The gradients of a step."""
    x, timesteps, *_ = inputs(tiny_network, device, 2, 500.0)
    text = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)).to(device)
    spacing, gradients = torch.full((2, 3), 0.5, device=device), []
    for compiles in (False, True):
        if compiles:
            tiny_network.unet.compile(dynamic=False)
        tiny_network.zero_grad()
        answer, logits = tiny_network.train()(x, timesteps, text, spacing)
        (answer.square().mean() + logits.square().mean()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in tiny_network.named_parameters()})
    record_property("apart", all_apart(gradients[1], gradients[0]))
    assert all_apart(gradients[1], gradients[0]) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_what_is_captured_answers_as_eager_does(device, tiny_network, precision):
    """Of several timesteps, cases and numbers of cases, in turn and again."""
    denoise = Replayed(tiny_network.denoise)
    asked = [(batch, timestep, seed) for batch in (1, 2) for timestep in (900.0, 10.0) for seed in (0, 1)]
    with torch.autocast(device.type, precision, enabled=precision is not None):
        for batch, timestep, seed in [*asked, *reversed(asked)]:
            given = inputs(tiny_network, device, batch, timestep, seed)
            assert apart(denoise(*given), tiny_network.denoise(*given)) < 1e-5


def test_the_text_encoder_in_bf16_reads_as_in_fp32(device, record_property):
    reports = [example.report for example in EXAMPLES.values()]
    expected = ReportEncoder(DEMO_T5, dtype="fp32", device="cpu").encode(reports)
    found = ReportEncoder(DEMO_T5, dtype="bf16", device=device).encode(reports)
    worst = max(apart(one, other) for one, other in zip(found, expected, strict=True))
    record_property("apart", worst)
    assert worst < 0.02

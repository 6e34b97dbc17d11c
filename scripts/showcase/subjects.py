"""What is measured: each network of the project as it is used, with random weights; and the authors' way beside ours.

A subject is built for a device and a precision, of autocast around its calls, and gives the work of one call. Built on
`meta` it computes nothing, and its operations can be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from scripts.data.datalists import SEQUENCES
from scripts.engine.precision import half_weights
from scripts.engine.replay import Replayed
from scripts.ldm.loss import JointLoss
from scripts.ldm.schedule import noise_process
from scripts.networks.ccella import CCELLA, REFERENCE_SPACING
from scripts.networks.unet import fold_upsampling
from scripts.showcase.measure import in_turn
from scripts.showcase.stages import BUNDLES
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.network import FACTOR, LATENT_CHANNELS, maisi_vae, prepare_inference

INPUT_SETS = 3  # that a network is given in turn
ROWS_OF_CLASSES = [[100.0, 0.0], [0.0, 100.0]]  # class vectors as the U-Net takes them

Work = Callable[[], object]
Function = TypeVar("Function", bound=Callable[..., Any])
Way = Callable[[Function], Function]


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        latent: (C, X, Y, Z) of a latent; C is 4 for each sequence.
        tokens: of a report.
        network, vae: what differs from the reference size, as arguments of `CCELLA` and `maisi_vae`.
        steps: of a volume's sampling.
        batch: cases of a training step.
        matrix: rows and columns of the product that speed is held against.
        megabytes: of a copy.
    """

    latent: tuple[int, int, int, int] = (4, 64, 64, 32)
    tokens: int = 512
    network: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 20
    batch: int = 8
    matrix: int = 8192
    megabytes: int = 1000

    @property
    def image(self) -> tuple[int, ...]:
        """(X, Y, Z) of a volume."""
        return tuple(FACTOR * n for n in self.latent[1:])

    @property
    def sequences(self) -> tuple[str, ...]:
        """That are generated together."""
        return SEQUENCES[: self.latent[0] // LATENT_CHANNELS]

    @property
    def width(self) -> int:
        """Of a report's embedding."""
        return self.network.get("input_dim", 4096)


def demo_size() -> Size:
    """The networks of the `demo` overlays, on their grid."""
    settings = ConfigParser.load_config_file(str(BUNDLES / "ccella_ldm" / "configs" / "demo.yaml"))
    network, vae = (
        {name: value for name, value in settings[part].items() if not isinstance(value, str)}
        for part in ("network_def", "vae_def")
    )
    channels = LATENT_CHANNELS * len(settings["channels"])
    network |= {"in_channels": channels, "out_channels": channels}
    return Size((channels, 16, 16, 8), tokens=64, network=network, vae=vae, steps=2, batch=2, matrix=512, megabytes=10)


SIZES: dict[str, Callable[[], Size]] = {"reference": Size, "demo": demo_size}


def as_it_is(function: Function) -> Function:
    """The function, run by PyTorch operation by operation."""
    return function


# Shapes are those of one row: a general one would take longer to compile, and be slower.
WAYS: dict[str, Way] = {"eager": as_it_is, "replayed": Replayed, "compiled": partial(torch.compile, dynamic=False)}


def ccella(size: Size, device: torch.device) -> CCELLA:
    """The denoiser with random weights, made on the device itself."""
    with device:
        return CCELLA(**size.network).eval()


def unet(
    size: Size,
    device: torch.device,
    way: Way = as_it_is,
    dtype: torch.dtype | None = None,
    answers: int = 1,
    layout: torch.memory_format = torch.channels_last_3d,
    folded: bool = True,
) -> Work:
    """One step of the U-Net, for so many answers in one batch: two where sampling is guided with equal weights.

    As sampling has it, with its upsampling folded into the convolution behind it, and its weights in the precision.
    """
    network = ccella(size, device)
    if folded:
        fold_upsampling(network.unet)
    half_weights(network, dtype)
    network.to(memory_format=layout)
    denoise = way(network.denoise)
    with device:
        inputs = [
            (
                torch.randn(answers, *size.latent).contiguous(memory_format=layout),
                torch.full((answers,), 500.0),
                torch.randn(answers, network.config["num_latents"], network.config["width"]),
                torch.tensor(ROWS_OF_CLASSES)[:answers],
                torch.tensor([REFERENCE_SPACING] * answers),
            )
            for _ in range(INPUT_SETS)
        ]
    return in_turn(lambda given: denoise(*given), inputs)


def adapter(
    size: Size,
    device: torch.device,
    way: Way = as_it_is,
    dtype: torch.dtype | None = None,
    timesteps: int | None = 1,
) -> Work:
    """The adapter with its class heads for one report, at so many timesteps at once; None is all of a sampling."""
    network = ccella(size, device)
    half_weights(network, dtype)
    condition = way(network.condition)
    with device:
        texts = [torch.randn(1, size.tokens, size.width) for _ in range(INPUT_SETS)]
    times = torch.linspace(1000, 0, timesteps or size.steps, device=device)  # transformers replaces it by its own
    return in_turn(lambda text: condition(text, times), texts)


def encoding(size: Size, device: torch.device, way: Way = as_it_is, dtype: torch.dtype | None = None) -> Work:
    """From an image to mean and spread of its latent; another way than eager is that of the whole network."""
    with device:
        network = maisi_vae(**size.vae).eval()
        images = [torch.rand(1, 1, *size.image) for _ in range(INPUT_SETS)]
    prepare_inference(network, dtype)
    whole = partial(encode, network, window=_window(size, device))
    return in_turn(whole if way is as_it_is else way(network.encode), images)


def decoding(size: Size, device: torch.device, way: Way = as_it_is, dtype: torch.dtype | None = None) -> Work:
    """From a latent to an image."""
    with device:
        network = maisi_vae(**size.vae).eval()
        latents = [torch.randn(1, LATENT_CHANNELS, *size.latent[1:]) for _ in range(INPUT_SETS)]
    prepare_inference(network, dtype)
    whole = partial(decode, network, window=_window(size, device))
    return in_turn(whole if way is as_it_is else way(network.decode), latents)


def _window(size: Size, device: torch.device) -> tuple[int, ...] | None:
    """None, as in use: free memory decides; there is none to ask for where nothing is computed."""
    return size.image if device.type == "meta" else None


# ---- the authors' way ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cases:
    """Random training cases: B latents, reports, and what goes with them."""

    latent: Tensor
    text: Tensor
    pirads: Tensor
    spacing: Tensor

    @classmethod
    def make(cls, size: Size, device: torch.device, count: int) -> Cases:
        """So many of them on the device."""
        with device:
            return cls(
                torch.randn(count, *size.latent),
                torch.randn(count, size.tokens, size.width),
                torch.tensor([[0.0, 1.0]] * count),
                torch.tensor([REFERENCE_SPACING] * count),
            )


def authors_step(size: Size, device: torch.device, way: Way = as_it_is, dtype: torch.dtype | None = None) -> Work:
    """One of their sampler's 1,000 steps: adapter and U-Net in the usual layout, then MONAI's DDPM."""
    network, process = ccella(size, device), noise_process("ddpm")
    forward = way(network)

    def step(cases: Cases) -> Tensor:
        timestep = torch.full((1,), 500.0, device=device)
        answer, _ = forward(cases.latent, timestep, cases.text, cases.spacing, cases.pirads)
        return process.step(answer, 500, cases.latent)[0]

    return in_turn(step, [Cases.make(size, device, 1) for _ in range(INPUT_SETS)])


def authors_training(size: Size, device: torch.device, way: Way = as_it_is, dtype: torch.dtype | None = None) -> Work:
    """A step of their training: scaled gradients, clipped, and AdamW as PyTorch has it; nothing is loaded."""
    network, loss = ccella(size, device).train(), JointLoss()
    forward, process = way(network), noise_process("ddpm")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(device.type)
    there = torch.zeros(size.batch, device=device)

    def step(cases: Cases) -> None:
        noise, timesteps = torch.randn_like(cases.latent), torch.randint(1000, (size.batch,), device=device)
        noisy = process.add_noise(cases.latent, noise, timesteps)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            answer, logits = forward(noisy, timesteps, cases.text, cases.spacing, cases.pirads)
            found, _ = loss(answer, noise, logits, cases.pirads, there)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(found).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return in_turn(step, [Cases.make(size, device, size.batch) for _ in range(INPUT_SETS)])


def forward_and_backward(size: Size, device: torch.device) -> Work:
    """What a training step computes, whoever takes it; to be counted."""
    network, cases = ccella(size, device).train(), Cases.make(size, device, size.batch)
    timesteps = torch.full((size.batch,), 500.0, device=device)

    def work() -> None:
        answer, logits = network(cases.latent, timesteps, cases.text, cases.spacing, cases.pirads)
        (answer.mean() + logits.mean()).backward()

    return work

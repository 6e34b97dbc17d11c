"""How much memory each step takes on a GPU at the reference size, counted without one.

    python -m scripts.showcase.memory

What cuDNN works in, what PyTorch's allocator rounds up to, and what CUDA itself takes come on top (docs/memory.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional
from transformers import T5Config, T5EncoderModel

from scripts.classifier.network import efficientnet_b0, lesion_net
from scripts.cli.run import run
from scripts.engine.precision import PRECISIONS, half_weights
from scripts.networks.ccella import CCELLA
from scripts.networks.unet import fold_upsampling
from scripts.showcase.counting import Step, peak_bytes
from scripts.vae.adversarial import Adversary
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.losses import VAELoss
from scripts.vae.network import maisi_vae

IMAGE, LATENT, TOKENS = (256, 256, 128), (4, 64, 64, 32), 512
T5_XXL = T5Config(
    d_model=4096, d_kv=64, num_heads=64, d_ff=10240, num_layers=24, vocab_size=32128, feed_forward_proj="gated-gelu"
)


def _text_encoder(dtype: torch.dtype | None) -> Step:
    encoder = T5EncoderModel(T5_XXL).eval()
    for weight in encoder.parameters():
        weight.data = weight.data.to(dtype or torch.float32)
    ids = torch.zeros(8, TOKENS, dtype=torch.long)
    return torch.no_grad()(lambda: encoder(input_ids=ids, attention_mask=torch.ones_like(ids)))


def _ccella(**options: Any) -> CCELLA:
    network = CCELLA(**options)
    for module in network.modules():
        if hasattr(module, "use_flash_attention"):
            module.use_flash_attention = True  # which MONAI's constructor refuses without a GPU
    return network


def _sampler(dtype: torch.dtype | None) -> CCELLA:
    network = _ccella().eval()
    fold_upsampling(network.unet)
    half_weights(network, dtype)
    return network


def _adapter(dtype: torch.dtype | None) -> Step:
    network, text, timesteps = _sampler(dtype), torch.empty(1, TOKENS, 4096), torch.empty(20)
    return torch.no_grad()(lambda: network.condition(text, timesteps))


def _unet(dtype: torch.dtype | None, answers: int) -> Step:
    network = _sampler(dtype)
    given = [torch.empty(answers), torch.empty(answers, 256, 768), torch.empty(answers, 2), torch.empty(answers, 3)]
    x = torch.empty(answers, *LATENT)
    return torch.no_grad()(lambda: network.denoise(x, *given))


def _vae(dtype: torch.dtype | None, image: bool, window: int | None = None) -> Step:
    network = maisi_vae().eval()
    for module in network.modules():  # on a GPU, whose types its layers look at
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(weight.shape, device="cuda"), requires_grad=False))
    half_weights(network, dtype)
    shape, direction = ((1, 1, *IMAGE), encode) if image else ((1, *LATENT), decode)
    x = torch.empty(shape, device="cuda")
    return lambda: direction(network, x, [window] * 3 if window else IMAGE)


def _trained(network: nn.Module, loss: Callable[[], Tensor], copies: int, passes: int = 1) -> Step:
    """Passes with gradients, beside `copies` of the weights: two are AdamW's moments, one a moving average."""
    kept = [torch.empty_like(weight) for weight in network.parameters() for _ in range(copies)]
    return lambda: ([loss().backward() for _ in range(passes)], kept)


def _train_ldm(dtype: torch.dtype | None, batch: int, checkpointing: bool = False, passes: int = 1) -> Step:
    network = _ccella(gradient_checkpointing=checkpointing)
    x, text, timesteps = torch.empty(batch, *LATENT), torch.empty(batch, TOKENS, 4096), torch.empty(batch)
    spacing = torch.empty(batch, 3)

    def loss() -> Tensor:
        answer, logits = network(x, timesteps, text, spacing)
        return functional.mse_loss(answer.float(), x) + logits.float().square().mean()

    return _trained(network, loss, 3, passes)


def _train_vae(dtype: torch.dtype | None, patch: tuple[int, int, int]) -> Step:
    """With the discriminator, after its first epochs; both have Adam's moments, and the VAE its average."""
    network, image, loss = maisi_vae(), torch.empty(1, 1, *patch), VAELoss()
    discriminator = PatchDiscriminator(3, channels=64, in_channels=1, num_layers_d=3)
    adversary = Adversary(network, discriminator, weight=0.1)
    moments = [torch.empty_like(weight) for weight in discriminator.parameters() for _ in range(2)]

    def compete() -> Tensor:
        prediction = network(image)
        output = {"pred": prediction, "label": image, "loss": loss(prediction, image)}
        state = SimpleNamespace(epoch=2, output=output)
        adversary.compete(SimpleNamespace(state=state, scaler=None, accumulation_steps=1))
        return output["loss"]

    step = _trained(network, compete, copies=3)
    return lambda: (step(), moments)


def _train_classifier(dtype: torch.dtype | None, batch: int, make: Callable[[], nn.Module] = lesion_net) -> Step:
    network, images = make(), torch.empty(batch, 1, 256, 256, 32)
    return _trained(network, lambda: network(images).float().square().mean(), copies=2)


STEPS: dict[str, Callable[[torch.dtype | None], Step]] = {  # checkpointing: the option activation_checkpointing
    "text encoder (T5-XXL), 8 reports of 512 tokens": _text_encoder,
    "adapter, a report of 512 tokens at 20 timesteps": _adapter,
    "U-Net, one answer": partial(_unet, answers=1),
    "U-Net, two answers: a guided volume": partial(_unet, answers=2),
    "U-Net, 16 answers: eight guided volumes": partial(_unet, answers=16),
    "encode, whole": partial(_vae, image=True),
    "encode, windows of 128 voxels": partial(_vae, image=True, window=128),
    "decode, whole": partial(_vae, image=False),
    "decode, windows of 128 voxels": partial(_vae, image=False, window=128),
    "decode, windows of 64 voxels": partial(_vae, image=False, window=64),
    "LDM training, a pass of 1 case": partial(_train_ldm, batch=1),
    "LDM training, a pass of 2": partial(_train_ldm, batch=2),
    "LDM training, a pass of 8": partial(_train_ldm, batch=8),
    "LDM training, checkpointing, a pass of 1": partial(_train_ldm, batch=1, checkpointing=True),
    "LDM training, checkpointing, a pass of 2": partial(_train_ldm, batch=2, checkpointing=True),
    "LDM training, checkpointing, a pass of 8": partial(_train_ldm, batch=8, checkpointing=True),
    "LDM training, checkpointing, passes of 1 (accumulate)": partial(_train_ldm, batch=1, checkpointing=True, passes=2),
    "LDM training, checkpointing, passes of 2 (accumulate)": partial(_train_ldm, batch=2, checkpointing=True, passes=2),
    "VAE training, a patch of 128×128×64": partial(_train_vae, patch=(128, 128, 64)),
    "VAE training, a patch of 64×64×64": partial(_train_vae, patch=(64, 64, 64)),
    "classifier training, 16 volumes of 256×256×32": partial(_train_classifier, batch=16),
    "classifier training, 2 volumes": partial(_train_classifier, batch=2),
    "classifier training, EfficientNet-B0, 16 volumes": partial(_train_classifier, batch=16, make=efficientnet_b0),
    "classifier training, EfficientNet-B0, 2 volumes": partial(_train_classifier, batch=2, make=efficientnet_b0),
}


def table() -> None:
    """Print GiB at the peak of every step, its networks, gradients and optimizer included, in bf16 and fp32."""
    print("| step | bf16 | fp32 |\n|---|---|---|")
    for name, prepare in STEPS.items():
        counted = [peak_bytes(prepare, PRECISIONS[amp]) / 2**30 for amp in ("bf16", "fp32")]
        print(f"| {name} | {' | '.join(f'{gib:.1f}' for gib in counted)} |", flush=True)


if __name__ == "__main__":
    run(table)

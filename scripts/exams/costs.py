"""What later steps take of disks and of a GPU's memory, for a grid: by formula, before any network is there."""

from __future__ import annotations

import math

from scripts.data.grid import FACTOR, GRIDS, Grid, by

LATENT_CHANNELS = 4  # of each image
STORED = 2 * 4  # bytes of a latent's element: mean and deviation in float32
EMBEDDED = 512 * 4096 * 2  # bytes of a report's embedding at most: tokens, width and float16 of Flan-T5-XXL

BATCH = 8  # cases in a step of the diffusion model's training, as its config has it
CARDS = (80, 48, 24, 16)  # GB of GPUs, as they are sold; of such 2**30 bytes each
SPARE, BESIDE = 1.1, 1.0  # what is not counted: a tenth more, and a GiB

# GiB at the reference grid in bf16 with the published networks, as docs/memory.md counts them: what does not depend on
# the grid, and what grows with its voxels. `tests/exams/test_costs.py` holds them to the counting.
TEXT_ENCODER = "embed reports with T5-XXL, 8 together"
LINEAR = {
    TEXT_ENCODER: (9.6, 0.0),
    "encode an image, whole": (0.1, 3.0),
    "decode an image, whole": (0.1, 6.2),
    "sample a volume with guidance": (1.1, 0.7),
}
PATCH, VAE, VAE_MEGAVOXEL = (128, 128, 64), 0.5, 8.5  # of the VAE's training, its weights, and a million voxels of it
LDM, LDM_CASE = 9.7, 2.15  # training: weights, gradients, moments and average; and each case of a pass
CHECKPOINTED_CASE = 1.07  # of a pass with activation_checkpointing
ACCUMULATED = 2.1  # what a pass finds of those before
LEAST = 11.8  # of a step of the optimizer, whatever the pass


def latent_bytes(grid: Grid, images: int) -> int:
    """Of all latents on disk."""
    return images * LATENT_CHANNELS * STORED * math.prod(n // FACTOR for n in grid.size)


def embedding_bytes(reports: int) -> int:
    """Of the embeddings of so many different reports on disk, at most: each is as long as its report."""
    return reports * EMBEDDED


def memory(grid: Grid, batch: int) -> dict[str, float]:
    """GiB of a GPU that each step takes at its peak, networks included."""
    share = _share(grid)
    steps = {name: fixed + growing * share for name, (fixed, growing) in LINEAR.items()}
    patch = [min(pair) for pair in zip(PATCH, grid.size, strict=True)]
    steps[f"train the VAE, a patch of {by(patch)}"] = VAE + VAE_MEGAVOXEL * math.prod(patch) / 1e6
    steps[f"train the diffusion model, {batch} cases a step"] = ldm_memory(grid, batch)
    steps["the same with --activation_checkpointing true"] = ldm_memory(grid, batch, checkpointing=True)
    return {name: round(gib, 1) for name, gib in steps.items()}


def ldm_memory(grid: Grid, cases: int, checkpointing: bool = False, accumulate: bool = False) -> float:
    """GiB of a training pass of so many cases."""
    case = (CHECKPOINTED_CASE if checkpointing else LDM_CASE) * _share(grid)
    return max(LEAST, LDM + cases * case + (ACCUMULATED if accumulate else 0.0))


def ldm_options(grid: Grid, batch: int, card: float) -> str:
    """How a GPU of `card` GB trains the diffusion model on `batch` cases a step, as options; "" where it cannot."""
    room = card / SPARE - BESIDE
    if ldm_memory(grid, batch) <= room:
        return "as it is"
    for passes in (n for n in range(1, batch + 1) if batch % n == 0):
        if ldm_memory(grid, batch // passes, checkpointing=True, accumulate=passes > 1) <= room:
            accumulate = f" --accumulate {passes}" if passes > 1 else ""
            return f"--activation_checkpointing true{accumulate}"
    return ""


def _share(grid: Grid) -> float:
    return math.prod(grid.size) / math.prod(GRIDS["reference"].size)

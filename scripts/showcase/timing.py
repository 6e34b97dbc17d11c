"""What each full-size network costs on this machine: seconds, peak memory, and speed against a matrix product's.

    python -m scripts.showcase.timing table [--threads 2]

Weights are random; a forward pass does the same work with any weights. Each row runs in a process of its own, so that
its peak memory is its own. A GPU is used where there is one.
"""

from __future__ import annotations

import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from monai.engines import SupervisedEvaluator
from torch.utils.flop_counter import FlopCounterMode

from scripts.cli.run import run
from scripts.common.problems import UserError
from scripts.data.grid import Grid, grid_affine
from scripts.engine.precision import PRECISIONS
from scripts.ldm.generate import JobBatch, LatentInferer
from scripts.ldm.initial_weights import start_network
from scripts.ldm.jobs import Job, Jobs
from scripts.ldm.recipe import Recipe
from scripts.ldm.sampling import Guidance
from scripts.ldm.schedule import make_scheduler
from scripts.ldm.writing import VolumeWriter
from scripts.networks.ccella import CCELLA, REFERENCE_SPACING
from scripts.networks.weights import Header
from scripts.reports.reader import Embedding
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.network import maisi_vae

LATENT = (4, 64, 64, 32)
IMAGE = (256, 256, 128)
TOKENS = 512
STEPS = 20
MATRIX = 4096  # of the product that speed is held against
ROWS = {
    "unet": "U-Net, one step at 4×64×64×32",
    "adapter": f"adapter with class heads, one report of {TOKENS} tokens, one timestep",
    "encode": "VAE, encode 256×256×128",
    "decode": "VAE, decode to 256×256×128",
    "volume": f"a volume (on a GPU one of eight): adapter, {STEPS} steps with guidance, decode, files",
    "train": "training: forward and backward of U-Net and adapter, one case",
}


def table(
    threads: int = 2,
    rows: Sequence[str] = ("unet", "adapter", "encode", "decode"),
    precisions: Sequence[str] = ("fp32", "bf16"),
) -> None:
    """Print the table.

    Args:
        threads: CPU threads that PyTorch may use.
        rows: which of unet, adapter, encode, decode, volume, train.
        precisions: which of fp32, bf16, fp16.

    Raises:
        UserError: no such row or precision, no thread, or one does not run here, such as for want of memory.
    """
    if threads < 1:
        raise UserError(f"threads is {threads}; give 1 or more")
    if unknown := [*(set(rows) - set(ROWS)), *(set(precisions) - set(PRECISIONS))]:
        known = ", ".join([*ROWS, *PRECISIONS])
        raise UserError(f"not known: {', '.join(unknown)}; there are {known}")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {threads} threads"
    print(f"{where}, PyTorch {torch.__version__}\n")
    print("| what | precision | seconds | TFLOP | of a matrix product's speed | peak memory (GiB) |")
    print("|---|---|---|---|---|---|")
    for name in rows:
        for precision in precisions:
            options = ["--name", name, "--precision", precision, "--threads", str(threads)]
            command = [sys.executable, "-m", "scripts.showcase.timing", "row", *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{name} in {precision} failed: {(done.stderr.splitlines() or ['killed'])[-1]}")
            figures = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {ROWS[name]} | {precision} | {figures['seconds']:.3g} | {figures['tflop']:.3g} "
                f"| {figures['share']:.0%} | {figures['peak_gib']:.1f} |",
                flush=True,
            )


def row(name: str, precision: str, threads: int) -> None:
    """Measure one row and print it as JSON; `table` calls it in a process of its own.

    The speed is held against what a product of two 4096×4096 matrices reaches here in that precision: on a GPU the
    peak for all purposes, on a CPU a yardstick that convolutions may exceed. In fp32 a GPU's convolutions use TF32, as
    PyTorch lets them, and so does that product. The work is counted by PyTorch
    (convolutions, matrix products and attention, two operations for each multiply-add). Of `volume`, time and work are
    shared out among the volumes.
    """
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = PRECISIONS[precision]
    with torch.set_grad_enabled(name == "train"):
        work = WORK[name](device)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            if device.type == "cuda":  # the first pass chooses kernels
                work()
            seconds = _seconds(work, device)
            peak = _peak_bytes(device)
            reached = _matrix_speed(device, dtype)
        # In a pass of its own, in fp32: counting slows a GPU down, and does not go with autocast in inference mode. And
        # of new networks: inference has cast the weights of those.
        with FlopCounterMode(display=False) as counter:
            WORK[name](device)()
    flop, count = counter.get_total_flops(), math.prod(_batches(device)) if name == "volume" else 1
    print(json.dumps({
        "seconds": seconds / count,
        "tflop": flop / count / 1e12,
        "share": flop / seconds / reached,
        "peak_gib": peak / 2**30,
    }))  # fmt: skip


def _matrix_speed(device: torch.device, dtype: torch.dtype | None) -> float:
    """Give the operations a second of a product of matrices that are in the precision already."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=dtype) for _ in range(2))
    return 2 * MATRIX**3 / min(_seconds(lambda: a @ b, device) for _ in range(3))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time one call from its begin to its end, also where the device works behind the program's back."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def _peak_bytes(device: torch.device) -> int:
    """Give the most memory that was taken at once, weights included: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- what is measured ------------------------------------------------------------------------------------------------


def _unet(device: torch.device) -> Callable[[], object]:
    network = CCELLA().to(device).eval()
    inputs = {
        "context": torch.randn(1, network.config["num_latents"], network.config["width"], device=device),
        "class_vector": torch.tensor([[100.0, 0.0]], device=device),
        "spacing_tensor": torch.tensor([REFERENCE_SPACING], device=device),
    }
    x, timestep = torch.randn(1, *LATENT, device=device), torch.tensor([500.0], device=device)
    return lambda: network.denoise(x, timestep, **inputs)


def _adapter(device: torch.device) -> Callable[[], object]:
    network = CCELLA().to(device).eval()
    text = torch.randn(1, TOKENS, network.config["input_dim"], device=device)
    return lambda: network.condition(text, torch.tensor([500.0], device=device))


def _encode(device: torch.device) -> Callable[[], object]:
    network = maisi_vae().to(device).eval()
    image = torch.rand(1, 1, *IMAGE, device=device)
    return lambda: encode(network, image)


def _decode(device: torch.device) -> Callable[[], object]:
    network = maisi_vae().to(device).eval()
    latent = torch.randn(1, *LATENT, device=device)
    return lambda: decode(network, latent)


def _batches(device: torch.device) -> tuple[int, int]:
    """Batches, and volumes in each: on a GPU those of the first are written while the second is sampled."""
    return (2, 4) if device.type == "cuda" else (1, 1)


def _volume(device: torch.device) -> Callable[[], object]:
    """Inference as its config puts it together, from embeddings to files."""
    network, vae = CCELLA().to(device).eval(), maisi_vae().to(device).eval()
    recipe, (batches, size) = _recipe(network), _batches(device)
    jobs = [_job(recipe, number) for number in range(batches * size)]
    empty = torch.randn(1, recipe.embedding_width)

    def make() -> None:
        # All anew, since the adapter's outputs are kept for reports that come again.
        given = replace(recipe, amp=_precision(device))
        with tempfile.TemporaryDirectory() as folder:
            listed = Jobs(jobs, jobs, empty, Path(folder), typed=False, sheet=frozenset())
            SupervisedEvaluator(
                device=device,
                val_data_loader=[jobs[start : start + size] for start in range(0, len(jobs), size)],
                network=network,
                prepare_batch=JobBatch(),
                inferer=LatentInferer(given, listed, Header(scale_factor=1.0), network),
                val_handlers=[VolumeWriter(given, listed, vae)],
                decollate=False,
            ).run()

    return make


def _recipe(network: CCELLA) -> Recipe:
    settings = {"seed": 0, "scheduler": "dpmpp_2m", "steps": STEPS, "guidance": {"report": 2, "class": 2}}
    return Recipe(
        variant=network.variant,
        meta={},
        authors=False,
        embedding_width=network.config["input_dim"],
        schedule=make_scheduler("dpmpp_2m", "rflow", STEPS, LATENT[1:], 1.0),
        guidance=Guidance(2, 2),
        sequences=("axt2",),
        shape=LATENT,
        size=IMAGE,
        spacing=REFERENCE_SPACING,
        amp="fp32",
        seed=0,
        settings=settings,
    )


def _job(recipe: Recipe, number: int) -> Job:
    embedding = torch.randn(TOKENS, recipe.embedding_width)
    return Job(
        folder=str(number),
        source="",
        split="",
        replicate=0,
        seed=number,
        embedding=Embedding(lambda: embedding, str(number)),
        pirads=[0, 0],
        label=None,
        affine=grid_affine(Grid(recipe.size, recipe.spacing)),
        entry={"spacing": list(recipe.spacing)},
        settings=recipe.settings,
    )


def _precision(device: torch.device) -> str:
    """The precision that is on: inference turns its own on, or off."""
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return next(name for name, known in PRECISIONS.items() if known == dtype)


def _train(device: torch.device) -> Callable[[], object]:
    network = start_network(CCELLA(), device).train()
    text = torch.randn(1, TOKENS, network.config["input_dim"], device=device)
    spacing = torch.tensor([REFERENCE_SPACING], device=device)
    x, timestep = torch.randn(1, *LATENT, device=device), torch.tensor([500.0], device=device)

    def step() -> None:
        given = network.condition(text, timestep)
        classes = network.class_vector(given.class_logits, None, None)
        network.denoise(x, timestep, given.context, classes, spacing).square().mean().backward()
        network.zero_grad(set_to_none=True)

    return step


WORK: dict[str, Callable[[torch.device], Callable[[], object]]] = {
    "unet": _unet,
    "adapter": _adapter,
    "encode": _encode,
    "decode": _decode,
    "volume": _volume,
    "train": _train,
}

if __name__ == "__main__":
    run({"table": table, "row": row})

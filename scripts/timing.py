"""What one pass of each full-size network costs on this machine: seconds and peak memory, as a Markdown table.

    python -m scripts.timing table [--threads 2]

Weights are random; a forward pass does the same work with any weights. Each row runs in a process of its own, so that
its peak memory is its own.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from scripts.cli import run
from scripts.networks.ccella import CCELLA, REFERENCE_SPACING
from scripts.problems import UserError
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.network import maisi_vae

LATENT = (1, 4, 64, 64, 32)
IMAGE = (1, 1, 256, 256, 128)
TOKENS = 512
ROWS = {
    "U-Net, one step at 4×64×64×32": "unet",
    "adapter with class heads, one report of 512 tokens": "adapter",
    "VAE, encode 256×256×128": "encode",
    "VAE, decode to 256×256×128": "decode",
}


def table(threads: int = 2, rows: tuple[str, ...] = tuple(ROWS.values())) -> None:
    """Print the table.

    Args:
        threads: CPU threads that PyTorch may use.
        rows: which of unet, adapter, encode, decode.

    Raises:
        UserError: no such row, or no thread.
    """
    if threads < 1:
        raise UserError(f"threads is {threads}; give 1 or more")
    if strange := sorted(set(rows) - set(WORK)):
        raise UserError(f"rows are {', '.join(strange)}; give some of {','.join(WORK)}")
    print(f"{platform.processor() or platform.machine()}, {threads} threads, PyTorch {torch.__version__}, fp32\n")
    print("| what | seconds | peak memory (GiB) |\n|---|---|---|")
    for title, name in ROWS.items():
        if name in rows:
            command = [sys.executable, "-m", "scripts.timing", "row", "--name", name, "--threads", str(threads)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            figures = json.loads(told)
            print(f"| {title} | {figures['seconds']:.1f} | {figures['peak_gib']:.1f} |", flush=True)


def row(name: str, threads: int) -> None:
    """Measure one row and print it as JSON; `table` calls it in a process of its own."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        work = WORK[name]()
        started = time.perf_counter()
        work()
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"seconds": seconds, "peak_gib": peak / 2**30}))


def _unet() -> Callable[[], object]:
    network = CCELLA().eval()
    inputs = {
        "context": torch.randn(1, 256, 768),
        "class_vector": torch.tensor([[100.0, 0.0]]),
        "spacing_tensor": torch.tensor([REFERENCE_SPACING]),
    }
    return lambda: network.denoise(torch.randn(LATENT), torch.tensor([500.0]), **inputs)


def _adapter() -> Callable[[], object]:
    network = CCELLA().eval()
    text = torch.randn(1, TOKENS, network.config["input_dim"])
    return lambda: network.condition(text, torch.tensor([500.0]))


def _encode() -> Callable[[], object]:
    network = maisi_vae().eval()
    return lambda: encode(network, torch.rand(IMAGE))


def _decode() -> Callable[[], object]:
    network = maisi_vae().eval()
    return lambda: decode(network, torch.randn(LATENT))


WORK: dict[str, Callable[[], Callable[[], object]]] = {
    "unet": _unet,
    "adapter": _adapter,
    "encode": _encode,
    "decode": _decode,
}

if __name__ == "__main__":
    run({"table": table, "row": row})

"""What each full-size network costs on this machine: seconds, peak memory, and speed against a matrix product's.

    python -m scripts.showcase.timing table [--threads 2]

Weights are random; a forward pass does the same work with any weights. Each row runs in a process of its own, so that
its peak memory is its own. A GPU is used where there is one; `make gpu` measures more of it.
"""

from __future__ import annotations

import gc
import json
import platform
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch

from scripts.cli.run import run
from scripts.common.problems import UserError
from scripts.engine.precision import PRECISIONS
from scripts.showcase.measure import ceilings, clock, count_flop, forget_peak, product, tf32, time_calls
from scripts.showcase.subjects import (
    SIZES,
    WAYS,
    Size,
    Work,
    adapter,
    authors_step,
    authors_training,
    decoding,
    encoding,
    forward_and_backward,
    unet,
)
from scripts.showcase.workflows import Figures, as_figures, training, volumes

META = torch.device("meta")
TRAINING = "training"  # begins the names of rows that compute gradients


@dataclass(frozen=True)
class Row:
    """A subject under its title; `build` is called with size, device, way and type."""

    title: str
    build: Callable[..., Work]
    trains: bool = False


CALLS = {
    "unet": Row("U-Net, one step", unet),
    "unet_guided": Row("U-Net, one guided step: two answers", partial(unet, answers=2)),
    "unet_contiguous": Row("U-Net, one step, channels first", partial(unet, layout=torch.contiguous_format)),
    "unet_unfolded": Row("U-Net, one step, upsampling not folded", partial(unet, folded=False)),
    "adapter": Row("adapter with class heads, one report, one timestep", adapter),
    "adapter_steps": Row("adapter, one report, all timesteps at once", partial(adapter, timesteps=None)),
    "encode": Row("VAE, encode", encoding),
    "decode": Row("VAE, decode", decoding),
    "authors_step": Row("the authors' sampler, one of 1,000 steps", authors_step),
    "training_authors": Row("the authors' training step", authors_training, trains=True),
}
ROWS = {
    **{name: row.title for name, row in CALLS.items()},
    "volume": "a volume from its embedding to its file: adapter, guided steps, decode; alone, and one of eight",
    "training": "training step as train.yaml has it, loading included",
    "ceilings": "products of matrices, and copies",
}


def table(
    threads: int = 2,
    rows: Sequence[str] = ("unet", "adapter", "encode", "decode"),
    precisions: Sequence[str] = ("fp32", "bf16"),
    size: str = "reference",
    batch: int = 8,
) -> None:
    """Print the table.

    Args:
        threads: CPU threads that PyTorch may use.
        rows: which of unet, unet_guided, unet_contiguous, unet_unfolded, adapter, adapter_steps, encode, decode,
            volume, training, authors_step, training_authors.
        precisions: which of fp32, bf16, fp16.
        size: `reference`, or `demo` for the networks of the demo overlays.
        batch: cases of a training step.

    Raises:
        UserError: no such row or precision, no thread, or one does not run here, such as for want of memory.
    """
    if threads < 1:
        raise UserError(f"threads is {threads}; give 1 or more")
    if unknown := [*(set(rows) - (ROWS.keys() - {"ceilings"})), *(set(precisions) - set(PRECISIONS))]:
        known = ", ".join([*(name for name in ROWS if name != "ceilings"), *PRECISIONS])
        raise UserError(f"not known: {', '.join(unknown)}; there are {known}")
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {threads} threads"
    print(f"{where}, PyTorch {torch.__version__}\n")
    print("| what | precision | seconds | TFLOP | of a matrix product's speed | peak memory (GiB) |")
    print("|---|---|---|---|---|---|")
    for name in rows:
        for precision in precisions:
            command = row_command([name], precision, size, "eager", threads=threads, batch=batch)
            done = subprocess.run(command, capture_output=True, text=True)
            found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            for told in found:
                if "error" not in told:
                    print(
                        f"| {told['title']} | {precision} | {told['seconds']:.3g} | {told['tflop']:.3g} "
                        f"| {told['share']:.0%} | {told['peak_gib']:.1f} |",
                        flush=True,
                    )
            errors = [told["error"] for told in found if "error" in told]
            if done.returncode or errors:
                last = (done.stderr.splitlines() or ["killed"])[-1]
                raise UserError(f"{name} in {precision} failed: {errors[0] if errors else last}")


def row_command(rows: Sequence[str], precision: str, size: str, way: str, **options: object) -> tuple[str, ...]:
    """The command that measures rows in a process of its own, which prints each as a line of JSON."""
    given = {"rows": f"[{','.join(rows)}]", "precision": precision, "size": size, "way": way, **options}
    words = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    return (sys.executable, "-m", "scripts.showcase.timing", "row", *words)


def row(
    rows: Sequence[str],
    precision: str,
    size: str = "reference",
    way: str = "eager",
    threads: int | None = None,
    batch: int | None = None,
) -> None:
    """Measure rows and print each as a line of JSON as soon as it is there; `table` and `make gpu` call it.

    A row that fails is told by its error, and the next one goes on.

    Args:
        rows: as in `table`, and `ceilings`.
        precision, size, batch: as in `table`.
        way: `eager`, `replayed` (captured once) or `compiled`; of a training eager or compiled.
        threads: CPU threads; the machine's own number without it.
    """
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = device.type == "cuda"  # as every workflow has it
    chosen = SIZES[size]() if batch is None else replace(SIZES[size](), batch=batch)
    for name in rows:
        told = {"row": name} | ({} if name == "ceilings" else {"precision": precision, "way": way})
        try:
            for title, figures in measure(name, chosen, device, precision, way):
                print(json.dumps({**told, "title": title, **figures}), flush=True)
        except Exception as error:  # whatever a kernel, a compiler or want of memory raises
            traceback.print_exc()
            while error.__cause__ is not None:  # MONAI wraps what a component raises
                error = error.__cause__
            print(json.dumps({**told, "title": ROWS[name], "error": f"{type(error).__name__}: {error}"}), flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def measure(
    name: str, size: Size, device: torch.device, precision: str, way: str = "eager"
) -> Iterator[tuple[str, Figures]]:
    """Measure one row: its titles and figures.

    The speed is held against what a product of two matrices reaches here in that precision: on a GPU the peak for all
    purposes, on a CPU a yardstick that convolutions may exceed. In fp32 a GPU's convolutions use TF32, as PyTorch lets
    them, and so does that product. The work is counted by PyTorch (see `count_flop`), of a volume by its parts.
    """
    if name == "ceilings":
        yield from ceilings(size.matrix, size.megabytes, device)
        return
    if name in CALLS:
        found = _call(CALLS[name], size, device, precision, way)
    else:
        found = _workflow(name, size, device, precision, way)
    flop, dtype = _flop(name, size), PRECISIONS[precision]
    for title, figures in found:
        reached = _matrix_speed(size.matrix, dtype, device)
        speed = flop / figures["seconds"]
        yield title, {**figures, "tflop": flop / 1e12, "tflops": speed / 1e12, "share": speed / reached}


def _call(given: Row, size: Size, device: torch.device, precision: str, way: str) -> Iterator[tuple[str, Figures]]:
    dtype, first = PRECISIONS[precision], {}
    # What trains turns autocast on itself, and off again: it must not keep weights that it has cast before they change.
    around = torch.autocast(device.type, dtype, enabled=dtype is not None and not given.trains)
    with torch.set_grad_enabled(given.trains), around:
        work = given.build(size, device, WAYS[way], dtype)
        if device.type == "cuda":  # chooses kernels, for which it tries some that take more memory
            first["first_seconds"], _ = clock(work, device)
        forget_peak(device)
        taken = time_calls(work, device)
        figures = as_figures(taken, device) | first
    yield given.title, figures | ({"images_per_second": size.batch / taken.median} if given.trains else {})


def _workflow(name: str, size: Size, device: torch.device, precision: str, way: str) -> Iterator[tuple[str, Figures]]:
    with tempfile.TemporaryDirectory() as folder:
        if name == "volume":
            yield from volumes(size, device, precision, Path(folder), compile=way == "compiled")
        else:
            yield from training(size, device, precision, Path(folder), compile=way == "compiled")


def _flop(name: str, size: Size) -> int:
    """Operations of one call, counted where nothing is computed."""
    if name.startswith(TRAINING):
        return count_flop(forward_and_backward(size, META))
    with torch.no_grad():
        if name == "volume":
            parts = {"unet_guided": size.steps, "adapter_steps": 1, "decode": len(size.sequences)}
            return sum(times * count_flop(CALLS[part].build(size, META)) for part, times in parts.items())
        return count_flop(CALLS[name].build(size, META))


@cache
def _matrix_speed(size: int, dtype: torch.dtype | None, device: torch.device) -> float:
    """Operations a second of a product of matrices that are in the precision already."""
    with tf32(torch.backends.cudnn.allow_tf32):
        return 2 * size**3 / product(size, dtype, device).median


if __name__ == "__main__":
    run({"table": table, "row": row})

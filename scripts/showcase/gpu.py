"""Checks and measures everything on a CUDA card, in under nine minutes.

    python -m scripts.showcase.gpu --output_dir out/gpu [--train]

In this order: whether it is right (the tests marked `gpu`), what the card reaches at best, how fast each part is at the
reference size, and the authors' way beside ours. With --train instead: how far the small networks of the phantom come
in a few minutes each. Each result is printed, and written into `gpu.json`, as soon as it is there, so that a run that
is cut short has told what it found; what fails is told and does not stop the rest.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from scripts.cli.run import run
from scripts.common.files import atomic
from scripts.common.problems import UserError
from scripts.showcase.stages import REPOSITORY
from scripts.showcase.timing import row_command
from scripts.showcase.trainings import trainings

WRITTEN = "gpu.json"
SECONDS = 510.0  # for all parts but the trainings; what has not begun by then is told and left out
LEAST = 15.0  # that are left when a task still begins
FULL_STEPS = 1000  # of the authors' sampler

Result = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A process whose results are the lines of JSON among what it prints.

    Attributes:
        limit: seconds after which it is stopped; the results that it has told count.
    """

    name: str
    command: tuple[str, ...]
    limit: float


def gpu(
    output_dir: str = "out/gpu", train: bool = False, minutes: float = 2.0, parts: Sequence[str] | None = None
) -> None:
    """Check and measure the project on this machine's GPU.

    Args:
        output_dir: gets `gpu.json` and, of the trainings, pictures. Parts that were measured before with the same card,
            versions and code stay in the file.
        train: run the trainings, and no other part unless it is named.
        minutes: for each of the three trainings.
        parts: which of right, ceilings, speed, train; the first three without it.

    Raises:
        UserError: no such part, no minutes, or no GPU that CUDA can use.
        SystemExit: with status 1 when something was not right, or failed.
    """
    wanted = [*(parts or ([] if train else ["right", "ceilings", "speed"])), *(["train"] if train else [])]
    if unknown := set(wanted) - set(PARTS):
        raise UserError(f"not known: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    if minutes <= 0:
        raise UserError(f"minutes is {minutes}; give more than 0")
    if not torch.cuda.is_available():
        raise UserError(
            "there is no GPU that PyTorch can use through CUDA, and nothing here can be measured without one; "
            "`python -m scripts.showcase.timing table` measures a CPU. Where there is a card, see that nvidia-smi "
            f"lists it and that PyTorch is built for CUDA (this is {torch.__version__})"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped, too
    report = Report(Path(output_dir), describe())
    folder, until = report.path.parent.resolve(), time.monotonic() + SECONDS
    for name in [part for part in PARTS if part in wanted]:
        made = trainings(folder, minutes) if name == "train" else run_tasks(PARTS[name](), until)
        report.part(name, made)
    print(f"\n{report.path}")
    if failed := report.failed(wanted):
        print(f"not right: {'; '.join(failed)}")
        raise SystemExit(1)
    print("everything was right")


# ---- what is run -----------------------------------------------------------------------------------------------------


def right() -> list[Task]:
    """The tests that need a GPU, several at a time where pytest-xdist is installed: most of their time is start-up."""
    command = (sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "--tell", "-p", "no:cacheprovider")
    several = ("-n", "4", "--dist", "worksteal") if find_spec("xdist") else ()
    return [Task("right", (*command, *several), 200)]


def ceiling() -> list[Task]:
    """Products and copies."""
    return [Task("ceilings", row_command(["ceilings"], "fp32", "reference", "eager"), 60)]


def speed() -> list[Task]:
    """The reference size: as PyTorch runs it, the authors' way, then captured and compiled, which may take long.

    Few processes, since each takes up to half a minute to start on a machine that has just been booted.
    """
    eager = [
        "unet",
        "unet_guided",
        "unet_contiguous",
        "unet_unfolded",
        "adapter",
        "adapter_steps",
        "encode",
        "decode",
        "volume",
        "training",
    ]
    chosen = [
        ("ours", eager, "bf16", "eager", 240),
        ("the authors' way", ["authors_step", "decode", "training_authors"], "fp16", "eager", 80),
        ("captured", ["unet_guided"], "bf16", "replayed", 40),
        ("compiled", ["unet_guided", "decode", "unet", "adapter_steps", "encode"], "bf16", "compiled", 120),
        ("compiled training", ["training"], "bf16", "compiled", 150),
        ("compiled volume", ["volume"], "bf16", "compiled", 150),
    ]
    return [
        Task(name, row_command(rows, precision, "reference", way), limit)
        for name, rows, precision, way, limit in chosen
    ]


PARTS: dict[str, Callable[[], list[Task]]] = {"right": right, "ceilings": ceiling, "speed": speed, "train": list}


def run_tasks(tasks: Iterable[Task], until: float) -> Iterator[Result]:
    """The results of tasks one after the other, as soon as they are told; those that cannot begin in time fail.

    Args:
        until: moment of `time.monotonic` at which the last one is stopped.
    """
    for task in tasks:
        left = until - time.monotonic()
        if left < LEAST:
            yield {"title": task.name, "error": "left out: no time was left"}
            continue
        print(f"\n{task.name} ...", flush=True)
        yield from results_of(task, min(task.limit, left))


def results_of(task: Task, limit: float) -> Iterator[Result]:
    """Run one task, show what else it prints, and stop it and all that it has started after `limit` seconds."""
    process = subprocess.Popen(
        task.command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        _end(process)

    timer, told = threading.Timer(limit, stop), []
    timer.start()
    try:
        for line in process.stdout:
            if (result := _read(line)) is None:
                print(line, end="", flush=True)
            else:
                told.append(result)
                yield result
        status = process.wait()
    finally:
        timer.cancel()
        _end(process)
    if stopped.is_set():
        yield {"title": task.name, "error": f"stopped after {limit:.0f} s"}
    elif status and not any("error" in result for result in told):
        yield {"title": task.name, "error": f"ended with status {status}"}


def _read(line: str) -> Result | None:
    if not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _end(process: subprocess.Popen) -> None:
    """Stop a process that leads a session of its own, and all others of it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# ---- what is told ----------------------------------------------------------------------------------------------------


class Report:
    """All that was found so far, on the screen and in one file that is replaced with each result.

    Args:
        folder: gets the file.
        about: card, versions and code; parts in the file that were measured with others are left behind.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.path = folder / WRITTEN
        self.content: dict[str, Any] = {"about": dict(about), "parts": {}}
        with suppress(OSError, ValueError, KeyError):
            before = json.loads(self.path.read_text(encoding="utf-8"))
            if before["about"] == self.content["about"] and about["commit"]:
                self.content["parts"] = before["parts"]
        print(", ".join(f"{name} {value}" for name, value in about.items()))
        self.write()

    def part(self, name: str, results: Iterable[Result]) -> None:
        """Take in the results of a part as they come; an error ends the part and is one of them."""
        started, part = time.monotonic(), {"date": _now(), "seconds": 0.0, "complete": False, "results": []}
        self.content["parts"][name] = part
        print(f"\n== {name}", flush=True)

        def take(result: Result) -> None:
            part["results"].append(result)
            part["seconds"] = round(time.monotonic() - started, 1)
            print(as_line(result), flush=True)
            self.write()

        try:
            for result in results:
                take(result)
            if name == "speed":
                for result in compared(part["results"]):
                    take(result)
        except Exception as error:  # whatever it is, the next part goes on
            traceback.print_exc()
            take({"title": name, "error": f"{type(error).__name__}: {error}"})
        part["seconds"], part["complete"] = round(time.monotonic() - started, 1), True
        self.write()

    def failed(self, names: Iterable[str]) -> list[str]:
        """What was not right in these parts."""
        results = [result for name in names for result in self.content["parts"][name]["results"]]
        return [f"{_name(result)} ({result['error'].splitlines()[0]})" for result in results if "error" in result]

    def write(self) -> None:
        """Replace the file."""
        with atomic(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")


def _name(result: Result) -> str:
    way = [result[name] for name in ("precision", "way") if name in result]
    return ", ".join([result["title"], *way])


def as_line(result: Result) -> str:
    """A result as one line: its name, and its figures in three digits."""
    told = {name: value for name, value in result.items() if name not in ("row", "title", "precision", "way")}
    shown = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in told.items()]
    return f"{_name(result)}: {', '.join(shown)}"


def compared(results: Sequence[Result]) -> Iterator[Result]:
    """Our way beside the authors', by their own steps: seconds a volume, and images a second."""
    found = [one for one in results if "error" not in one and "row" in one]
    theirs = {one["row"]: one for one in found if one.get("precision") == "fp16"}
    if {"authors_step", "decode"} <= theirs.keys():
        whole = FULL_STEPS * theirs["authors_step"]["seconds"] + theirs["decode"]["seconds"]
        for one in (one for one in found if one["row"] == "volume"):
            told = {"ours": one["seconds"], "theirs": whole, "ratio": whole / one["seconds"]}
            yield {"title": f"{_name(one)}, beside the authors'", **told}
    ours = [one for one in found if one["row"] == "training"]
    if "training_authors" in theirs and ours:
        speeds = max(one["images_per_second"] for one in ours), theirs["training_authors"]["images_per_second"]
        yield {
            "title": "images/s of training, beside the authors'",
            "ours": speeds[0],
            "theirs": speeds[1],
            "ratio": speeds[0] / speeds[1],
        }


def describe() -> dict[str, Any]:
    """The card, its driver, the versions that matter, and the commit where the code knows it."""
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "card": card.name if card else "none",
        "memory_gib": round(card.total_memory / 2**30, 1) if card else 0,
        "driver": _told_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "triton", "monai", "pytorch-ignite", "transformers")},
        "commit": _told_by("git", "describe", "--always", "--dirty"),
    }


def _told_by(*command: str) -> str | None:
    """What a program prints; None where there is no such program, or it fails."""
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


if __name__ == "__main__":
    run(gpu)

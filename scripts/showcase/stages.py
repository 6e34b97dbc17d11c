"""Commands run in order, each in a process of its own with a log, each skipped once it is done.

What runs is what a user would type: the study and the demo are nothing but such commands. Half of a short command's
time is the import of PyTorch and MONAI, so one process has imported them, and each command begins as a copy of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as ended
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import torch
from joblib import cpu_count

from scripts.common.files import atomic
from scripts.common.identity import file_identity
from scripts.common.problems import UserError
from scripts.ldm.recipe import DECISIVE

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLES = REPOSITORY / "bundles"
DEMO_VAE = BUNDLES / "vae" / "models" / "demo_vae.safetensors"
DEMO_LDM = BUNDLES / "ccella_ldm" / "models" / "demo_ldm.safetensors"
DEMO_T5 = BUNDLES / "ccella_ldm" / "models" / "demo_t5"
DEMO_T5_FILES = (DEMO_T5 / "model.safetensors", DEMO_T5 / "tokenizer.json")  # what its embeddings depend on
DEMO_CLASSIFIER = BUNDLES / "classifier" / "models" / "demo_classifier.safetensors"
PYTHON = (sys.executable, "-m")  # begins the commands that are run by a copy
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
COPIES = multiprocessing.get_context(METHOD)
COPIES.set_forkserver_preload(["ignite.metrics", "monai.bundle", "monai.networks.nets", "transformers"])
STARTING = threading.Lock()
LOG_LINES = 15  # shown of the log of a stage that failed

Size = TypeVar("Size")


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        needs: the earlier stages whose outputs it reads: it is run again when they were.
        makes: the folder of its results, where these must not be mixed with results from other inputs, nor gone on
            with: it is removed when what the stage needs was made anew.
        reads: files from outside the chain, such as shipped weights: it is run again when one of them changed.
        beside: it may run beside others of which that is true, and takes its part of the cores.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    makes: Path | None = None
    reads: tuple[Path, ...] = ()
    beside: bool = False


def bundle(name: str, config: str, overlays: tuple[str, ...] = (), **values: object) -> tuple[str, ...]:
    """Give the command that runs a bundle's config with overlays and values, as a user types it.

    Args:
        name: folder of the bundle, such as `vae`.
        config: name of the config, such as `train`.
        overlays: names of configs listed after it, such as `demo` or `variants/last`.
        values: top-level ids that replace the config's own.
    """
    files = [str(BUNDLES / name / "configs" / f"{part}.yaml") for part in (config, *overlays)]
    options = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    return (*PYTHON, "monai.bundle", "run", "--config_file", str(files), *options)


def module(name: str, *arguments: str, **options: object) -> tuple[str, ...]:
    """Give the command that runs one of the package's own commands (`python -m scripts.<name>`)."""
    pairs = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return (*PYTHON, f"scripts.{name}", *arguments, *pairs)


def choose_size(sizes: Mapping[str, Size], name: str) -> Size:
    """Give the size of that name, of a chain that comes in several.

    Raises:
        UserError: there is none.
    """
    if name not in sizes:
        raise UserError(f"size is {name!r}; give one of {', '.join(sizes)}")
    return sizes[name]


def run_stages(stages: list[Stage], folder: Path, together: int = 1) -> dict[str, float]:
    """Run the stages in order and give the seconds that each took when it ran.

    Of neighbours in the list that may run beside others, so many run at a time, each as soon as what it needs is done.

    `<folder>/logs/<stage>.log` holds what a stage printed; `<folder>/stages/<stage>.json` is written when it is done
    and records a digest of its command, of the stages it needs and of the files it reads, so that only what changed is
    run again.

    Raises:
        UserError: a stage failed; the message ends with the last lines of its log.
    """
    digests: dict[str, str] = {}
    seconds: dict[str, float] = {}
    numbered = enumerate(stages, 1)
    for beside, group in itertools.groupby(numbered, key=lambda pair: pair[1].beside and together > 1):
        tasks: dict[str, Task] = {}
        for number, stage in group:
            inputs = [digests[name] for name in stage.needs]
            inputs += [file_identity(file, DECISIVE) for file in stage.reads]
            digests[stage.name] = hashlib.sha256(json.dumps([stage.command, inputs]).encode()).hexdigest()
            threads = max(1, cpu_count() // together) if beside else None
            place = f"[{number}/{len(stages)}] {stage.name}"
            tasks[stage.name] = Task(stage, folder, place, inputs, digests[stage.name], threads)
        if beside:
            seconds |= _side_by_side(tasks, together)
        else:
            seconds |= {name: task.run() for name, task in tasks.items()}
    return seconds


@dataclass(frozen=True)
class Task:
    """A stage in its chain: what it is called there, what it is made from, and on how many threads (None: all)."""

    stage: Stage
    folder: Path
    place: str
    inputs: list[str]
    digest: str
    threads: int | None

    def run(self) -> float:
        """Run the stage if it is not done yet, and give the seconds that it took when it ran."""
        stamp = self.folder / "stages" / f"{self.stage.name}.json"
        record = json.loads(stamp.read_text()) if stamp.is_file() else {}
        if record.get("digest") == self.digest:
            print(f"{self.place}: done before", flush=True)
            return record["seconds"]
        print(f"{self.place} ...", flush=True)
        if self.stage.makes is not None and record.get("inputs", self.inputs) != self.inputs:
            shutil.rmtree(self.stage.makes, ignore_errors=True)
        record = {"inputs": self.inputs}
        _write_stamp(stamp, record)  # a stage that is stopped from here on goes on with what it made from these
        seconds = _run(self.stage, self.folder / "logs" / f"{self.stage.name}.log", self.threads)
        _write_stamp(stamp, record | {"digest": self.digest, "seconds": seconds})
        print(f"{self.place}: {seconds:.0f} s", flush=True)
        return seconds


def _side_by_side(tasks: Mapping[str, Task], together: int) -> dict[str, float]:
    """Run so many at a time, each when those that it needs are done; after a failure none begins any more."""
    stopped, futures = threading.Event(), {}

    def begin(task: Task, needed: Sequence[Future[float]]) -> float:
        for one in needed:  # they are before it in the queue, so that they run or are done
            one.result()
        if stopped.is_set():
            raise CancelledError
        try:
            return task.run()
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(together) as pool:
        try:
            for name, task in tasks.items():
                needed = [futures[other] for other in task.stage.needs if other in futures]
                futures[name] = pool.submit(begin, task, needed)
            ended(futures.values())
        except BaseException:  # such as Ctrl+C
            stopped.set()
            raise
    for error in (future.exception() for future in futures.values()):
        if error is not None and not isinstance(error, CancelledError):
            raise error
    return {name: future.result() for name, future in futures.items()}


def _write_stamp(stamp: Path, record: dict[str, Any]) -> None:
    with atomic(stamp) as temporary:
        temporary.write_text(json.dumps(record))


def _run(stage: Stage, log: Path, threads: int | None) -> float:
    """Run one stage with its output in a log file, on so many threads; give the seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    log.write_text(shlex.join(stage.command) + "\n", encoding="utf-8")
    if stage.command[:2] == PYTHON:
        process = COPIES.Process(target=_typed, args=(stage.command[2:], log, threads))
        with STARTING:
            process.start()
        wait([process.sentinel])
        with STARTING:  # which looks at all processes that have ended, and must not while another does
            process.join()
        code = process.exitcode
    else:
        with log.open("a", encoding="utf-8") as output:
            code = subprocess.run(stage.command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:])
        raise UserError(f"stage {stage.name} failed with exit status {code}; its log is {log} and ends:\n{tail}")
    return time.monotonic() - started


def _typed(words: tuple[str, ...], log: Path, threads: int | None) -> None:
    """Do what `python -m` does with these words, in this process, with all that it prints in a log file."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of processes that it starts
        torch.set_num_threads(threads)
    with log.open("a", encoding="utf-8") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    multiprocessing.set_start_method(None, force=True)  # this process' own start says nothing about its children's
    os.chdir(REPOSITORY)
    sys.path.insert(0, str(REPOSITORY))
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except Exception:
        sys.excepthook(*sys.exc_info())  # commands tell their errors by it
        sys.exit(1)
    finally:
        logging.shutdown()

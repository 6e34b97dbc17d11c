"""One file that holds all that a training needs to go on: written while it runs, read when it is started again."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.utils import ensure_tuple

from scripts.common.files import atomic, remove_stale
from scripts.common.identity import MARK, file_identity, is_by_contents
from scripts.common.problems import UserError
from scripts.engine.background import Background
from scripts.engine.loading import Epochs
from scripts.engine.share import for_all
from scripts.engine.states import as_here, copy_state, in_main_memory, set_rates

logger = logging.getLogger(__name__)

CHECKPOINT, EXPORT = "checkpoint.pt", "model.safetensors"


class Resume:
    """Handler: saves the state of a run every few minutes, and puts a trainer that is being built into it.

    At the end of an epoch the state is copied to main memory, and written from there while the training goes on; of two
    checkpoints the second waits until the first is written, so that there is one copy at most. The file is replaced
    only by a complete one, so a run that is killed at any moment goes on from its last checkpoint.

    Nothing random is stored because nothing random is carried over: every draw has a seed of its own, of the run, the
    epoch and the step or the case. A continued run is therefore the same as one that was never interrupted.

    The checkpoint is read once, when the trainer is built, and not when it runs: weights that are loaded into the
    network afterwards stay, as those of a federation's server do, which come before every run of the same trainer.
    Optimizer, learning rate and the count of epochs go on from one run to the next.

    A run may be given more epochs: the learning rate is a function of the step's number, so from there on it is what
    it would have been had the run been given them from the start.

    Ignite's `Checkpoint` writes without flushing, knows nothing of the settings that a run was begun with, and of a
    checkpoint's learning rates keeps those of the epochs planned then.

    What differs from training to training is in `extra_state`, `load_extra_state`, `export` and `worth_saving`.

    Args:
        folder: gets `checkpoint.pt`, to go on from, and `model.safetensors`, to use.
        parts: whatever has a state, by its name in the file; `optimizer` and `schedule` among them, and a moving
            average after its network, whose loading begins it anew.
        settings: what shapes the run, plain values; a checkpoint made with others is refused.
        batches: told before every run how many epochs are done: a federation's rounds are runs of one trainer.
        minutes: between checkpoints, at the end of an epoch; 0: after every epoch. The last epoch is always saved.
        resume: go on from a checkpoint in the folder; else start anew and replace it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        parts: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        batches: Epochs | None = None,
        minutes: float = 0.0,
        resume: bool = True,
    ) -> None:
        self.folder, self.parts, self.settings = Path(folder), dict(parts), dict(settings)
        self.batches = batches
        self.minutes, self.resume = minutes, resume
        self.saved_epoch: int | None = None  # of the checkpoint on the disk
        self.copied_epoch: int | None = None  # of that which is there or is being written
        self.copied_at = time.monotonic()
        self.background = Background(threads=1, most=1)

    def extra_state(self, engine: Engine) -> dict[str, Any]:
        """What else the checkpoint holds."""
        return {}

    def load_extra_state(self, engine: Engine, state: Mapping[str, Any]) -> None:
        """Put back what `extra_state` gave."""

    def export(self, state: Mapping[str, Any]) -> None:
        """Write `model.safetensors` from what a checkpoint holds."""

    def worth_saving(self) -> bool:
        """Whether what is there by now may take the place of the last checkpoint."""
        return True

    def attach(self, engine: Engine) -> None:
        """Restore a trainer and register with it: after `OptimizerStep`, validation and learning-rate handlers.

        Raises:
            UserError: see `restore`.
        """
        self.restore(engine)
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.tell)

    def restore(self, engine: Engine) -> None:
        """Go on from the folder's checkpoint, if there is one.

        Raises:
            UserError: it cannot be read, or was made with other settings or by another training; or the processes do
                not all see the same one.
        """
        if idist.get_rank() == 0:
            remove_stale(self.folder)
        path = self.folder / CHECKPOINT
        state = None
        if self.resume and path.is_file():
            state = self._read(path)
            self._put_back(path, state, engine)
        self._check_shared(path)
        if state is None:
            return
        logger.info(f"going on after epoch {self.saved_epoch} from {path}")
        if idist.get_rank() == 0 and not (self.folder / EXPORT).is_file():
            self.export(state)

    def start(self, engine: Engine) -> None:
        """Begin the batches, and the minutes to the next checkpoint, where the run goes on.

        A run that has all its epochs is left as it is; Ignite would count them from the first again.
        """
        if self.saved_epoch and engine.state.epoch == 0:
            self._set_epoch(engine)
            logger.warning(f"the run has {self.saved_epoch} epochs and was to have no more: nothing is trained")
        self.copied_at = time.monotonic()
        if self.batches is not None:
            self.batches.epochs_done = engine.state.epoch

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            # Mapped, not read: each part copies its own to its device, and no process needs main memory for all.
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            settings = state["settings"]
        except Exception as error:  # torch raises whatever the broken bytes lead it to
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}): it is damaged, or not of this training; delete it, "
                "or start anew with --resume false, which replaces it"
            ) from None
        self._check_settings(path, settings)
        return state

    def _put_back(self, path: Path, state: Mapping[str, Any], engine: Engine) -> None:
        try:
            for name, part in self.parts.items():
                part.load_state_dict(as_here(part, state[name]))
            if engine.scaler is not None and state["scaler"]:  # empty: the run was begun where nothing is scaled
                engine.scaler.load_state_dict(state["scaler"])
            self.load_extra_state(engine, state)
            self.saved_epoch = self.copied_epoch = state["epoch"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path} does not fit this training's network and optimizer ({type(error).__name__}). Give another "
                "folder, or start anew with --resume false, which replaces it"
            ) from None
        copy_state(self.parts["optimizer"])
        set_rates(self.parts["schedule"])
        self._set_epoch(engine)
        engine.state.max_epochs = max(engine.state.max_epochs, self.saved_epoch)  # Ignite refuses to have fewer

    def _set_epoch(self, engine: Engine) -> None:
        engine.state.epoch = self.saved_epoch
        engine.state.iteration = self.saved_epoch * engine.state.epoch_length

    def _check_shared(self, path: Path) -> None:
        """All processes go on from one epoch: a node that does not see the checkpoint would train other weights."""
        epochs = {
            int(epoch) for epoch in idist.all_gather(torch.tensor([self.saved_epoch or 0], device=idist.device()))
        }
        if len(epochs) > 1:
            found = ", ".join(str(epoch) if epoch else "none" for epoch in sorted(epochs))
            raise UserError(
                f"the processes do not see the same {path} (epochs found: {found}): give a folder on a disk that all "
                "nodes share"
            )

    def save(self, engine: Engine) -> None:
        """Let the checkpoint and the weights to use be written, where it is time; the first rank does it for all.

        Raises:
            UserError: the last one could not be written; those that were there before are intact.
        """
        if idist.get_rank() == 0 and time.monotonic() - self.copied_at >= 60 * self.minutes:
            self._hand_over(engine)

    def finish(self, engine: Engine) -> None:
        """Write the last checkpoint, and wait for it.

        Raises:
            UserError: it cannot be written; those that were there before are intact.
        """
        if idist.get_rank() == 0:
            self._hand_over(engine)
            self.background.finish()
        if _is_whole(engine) and self.worth_saving():
            self.saved_epoch = engine.state.epoch

    def _hand_over(self, engine: Engine) -> None:
        """Copy the state, and let the copy be written in the background; not within an epoch, where nothing goes on."""
        if self.copied_epoch == engine.state.epoch or not _is_whole(engine) or not self.worth_saving():
            return
        self.background.finish()  # before another copy is made
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {
            "epoch": engine.state.epoch,
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            "settings": self.settings,
            **self.extra_state(engine),
        }
        self.background.start(self._write, in_main_memory(state))
        self.copied_epoch, self.copied_at = engine.state.epoch, time.monotonic()

    def _write(self, state: Mapping[str, Any]) -> None:
        try:
            with atomic(self.folder / CHECKPOINT) as part:
                torch.save(state, part)
                # Before the checkpoint counts: a run that is killed between the two then writes both again.
                self.export(state)
        except (UserError, RuntimeError) as error:  # torch's writer raises RuntimeError when the disk is full
            raise self._cannot_write(state["epoch"], error) from error
        self.saved_epoch = state["epoch"]

    def tell(self, engine: Engine, error: BaseException) -> None:
        """Complete what is being written; put a full disk into words, where others such as TensorBoard write, too.

        No later handler sees the error.

        Raises:
            UserError: the disk is full or can no longer be written.
            BaseException: what else has ended the run, as it is.
        """
        try:
            self.background.finish()
        except Exception as failed:  # beside what has ended the run
            logger.error(failed)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise self._cannot_write(engine.state.epoch, error) from error
        raise error

    def _cannot_write(self, epoch: int, error: Exception) -> UserError:
        free = shutil.disk_usage(self.folder).free / 2**30
        return UserError(
            f"cannot write to {self.folder} in epoch {epoch}, {free:.1f} GiB are free there: {error}. The "
            f"checkpoint of epoch {self.saved_epoch or 0} is intact; make room (checkpoints may take twice their size "
            "for a moment) and start again with the same command"
        )

    def _check_settings(self, path: Path, old: Mapping[str, Any]) -> None:
        changed = [
            f"{name} was {old.get(name)}, is {self.settings.get(name)}"
            for name in sorted(old.keys() | self.settings.keys())
            if old.get(name) != self.settings.get(name)
        ]
        if "cases_digest" in old and not is_by_contents(old["cases_digest"]):
            raise UserError(
                f"{path} was written by an earlier version, which told data apart by the bytes of their files, so that "
                "nobody can tell whether these are its data. Go on with that version, or give another folder, or start "
                "anew with --resume false, which replaces it"
            )
        if changed:
            raise UserError(
                f"{path} belongs to another run: {'; '.join(changed)}. Give the values that it was made with or "
                "another folder, or start anew with --resume false, which replaces it"
            )


def _is_whole(engine: Engine) -> bool:
    """Whether the epoch has all its iterations: a trainer may have been told to stop before."""
    return engine.state.iteration == engine.state.epoch * engine.state.epoch_length


def data_digest(cases: Iterable[object], values: Sequence[str], files: Sequence[str]) -> str:
    """A digest that changes with what a run learns from, wherever it lies, and with its order.

    The files are those of all processes, which share out the reading.

    Args:
        cases: mappings or objects.
        values: names of what counts as it is, such as `label`.
        files: names of paths, or of sequences of paths, whose contents count (`file_identity`); None is left out.

    Raises:
        UserError: a file is missing or damaged.
    """
    rows, read = [], []
    for case in cases:
        parts = case if isinstance(case, Mapping) else vars(case)
        paths = [str(path) for name in files for path in ensure_tuple(parts[name]) if path is not None]
        rows.append(([str(parts[name]) for name in values], paths))
        read += paths
    distinct = sorted(set(read))  # cases may share a file
    contents = dict(zip(distinct, for_all(file_identity, distinct), strict=True))
    told = [[*own, *(contents[path] for path in paths)] for own, paths in rows]
    return MARK + hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

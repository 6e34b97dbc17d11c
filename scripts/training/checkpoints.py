"""One file that holds all that training needs to go on, and one that holds what sampling needs."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from scripts.files import atomic
from scripts.networks.ccella import CCELLA
from scripts.problems import UserError
from scripts.training.batches import StepSampler
from scripts.training.objective import NoisyBatch
from scripts.training.weights import save_weights

logger = logging.getLogger(__name__)

CHECKPOINT, EXPORT = "checkpoint.pt", "model.safetensors"


class TrainingState:
    """Saves the state of a run after every few epochs, and puts a run back into it.

    The file is replaced only by a complete one, so a run that is killed at any moment goes on from its last
    checkpoint. Nothing random is stored because nothing random is carried over: every draw has its own seed, of the
    run, the epoch and the case. A continued run is therefore the same as one that was never interrupted.

    Args:
        folder: gets `checkpoint.pt`, to go on from, and `model.safetensors`, to sample with.
        network, optimizer, schedule, average: what is trained; `average` is exported where there is one.
        sampler, prepare: told the epoch and the scale factor of the checkpoint.
        settings: what shapes the run, plain values; a checkpoint made with others is refused.
        about: what the exported weights shall say about themselves, see `save_weights`.
        every: epochs between checkpoints; the last epoch is always saved.
        half: export the weights in half precision, half the size; the checkpoint keeps them whole.
        resume: go on from a checkpoint in the folder; else start anew and replace it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        network: CCELLA,
        optimizer: Optimizer,
        schedule: LRScheduler,
        average: AveragedModel | None,
        sampler: StepSampler,
        prepare: NoisyBatch,
        settings: Mapping[str, Any],
        about: Mapping[str, Any],
        every: int = 1,
        half: bool = False,
        resume: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.network, self.average = network, average
        self.stateful = {"network": network, "optimizer": optimizer, "schedule": schedule}
        if average is not None:
            self.stateful["average"] = average
        self.sampler, self.prepare = sampler, prepare
        self.settings, self.about = dict(settings), dict(about)
        self.every, self.half, self.resume = every, half, resume
        self.saved_epoch: int | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self.save)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def restore(self, engine: Engine) -> None:
        """Go on from the folder's checkpoint, if there is one.

        Raises:
            UserError: it cannot be read, or was made with other settings.
        """
        path = self.folder / CHECKPOINT
        if idist.get_rank() == 0:
            for name in (CHECKPOINT, EXPORT):  # what a killed run was writing
                for stale in self.folder.glob(f".part-*{name}"):
                    stale.unlink()
        if not self.resume or not path.is_file():
            return
        try:
            state = torch.load(path, map_location=engine.state.device, weights_only=True)
        except Exception as error:  # torch raises whatever the broken bytes lead it to
            message = f"{path} cannot be read ({type(error).__name__}); delete it or start anew with --resume false"
            raise UserError(message) from None
        self._check_settings(path, state["settings"])
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])
        if engine.scaler is not None and state["scaler"] is not None:
            engine.scaler.load_state_dict(state["scaler"])
        engine.state.epoch = self.sampler.epochs_done = self.saved_epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
        self.prepare.scale_factor = state["scale_factor"]
        logger.info(f"going on after epoch {state['epoch']} from {path}")

    def save(self, engine: Engine) -> None:
        """Write the checkpoint and the weights to sample with; the first rank does it for all.

        Raises:
            UserError: they cannot be written; those that were there before are intact.
        """
        epoch = engine.state.epoch
        if idist.get_rank() or self.saved_epoch == epoch:
            return
        state = {name: part.state_dict() for name, part in self.stateful.items()}
        state |= {
            "epoch": epoch,
            "scale_factor": self.prepare.scale_factor,
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            "settings": self.settings,
        }
        try:
            with atomic(self.folder / CHECKPOINT) as part:
                torch.save(state, part)
                # Before the checkpoint counts: a run that is killed between the two then writes both again.
                self._export(epoch)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError when the disk is full
            free = shutil.disk_usage(self.folder).free / 2**30
            raise UserError(
                f"cannot write to {self.folder} after epoch {epoch}, {free:.1f} GiB are free there: {error}. The "
                f"checkpoint of epoch {self.saved_epoch or 0} is intact; make room (checkpoints may take twice their "
                "size for a moment) and start again with the same command"
            ) from error
        self.saved_epoch = epoch

    def _export(self, epoch: int) -> None:
        source = self.network if self.average is None else self.average.module
        state = source.state_dict()
        save_weights(
            self.folder / EXPORT,
            {name: tensor.half() for name, tensor in state.items()} if self.half else state,
            config=self.network.config,
            scale_factor=self.prepare.scale_factor,
            epoch=epoch,
            averaged=self.average is not None,
            **self.about,
        )

    def _check_settings(self, path: Path, old: Mapping[str, Any]) -> None:
        names = sorted(old.keys() | self.settings.keys())
        changed = [
            f"{name} was {old.get(name)}, is {self.settings.get(name)}"
            for name in names
            if old.get(name) != self.settings.get(name)
        ]
        if changed:
            raise UserError(
                f"{path} belongs to another run: {'; '.join(changed)}. Give another ckpt_dir, or start anew with "
                "--resume false, which replaces it"
            )

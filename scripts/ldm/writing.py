"""The handler that decodes and writes what is generated, and what is written beside the volumes."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import Tensor, nn

from scripts.common.identity import fingerprint
from scripts.common.problems import Problems, UserError
from scripts.data.images import to_scanner
from scripts.data.montage import montage
from scripts.data.nifti import save_nifti
from scripts.data.outputs import (
    MARK,
    RECORD,
    SHEET,
    Record,
    find_records,
    read_record,
    remove_other_rank_sheets,
    write_merged,
    write_rank_sheets,
)
from scripts.engine.background import Background
from scripts.engine.precision import PRECISIONS
from scripts.ldm.jobs import Job, Jobs
from scripts.ldm.recipe import Recipe
from scripts.ldm.sampling import Sample
from scripts.vae.decode import decode
from scripts.vae.network import LATENT_CHANNELS

logger = logging.getLogger(__name__)

# Volumes that are written at the same time, and that wait or are written: 0.4 GB with three sequences of full size.
WRITERS, HANDED_OVER = 4, 8


class VolumeWriter:
    """Decodes and writes every case of a batch when it is sampled, and the sheets and datalists at the end.

    A case is written while the next ones are made: a GPU need not wait for compressing and drawing.
    """

    def __init__(self, recipe: Recipe, jobs: Jobs, vae: nn.Module) -> None:
        """Take the VAE, in evaluation mode on its device.

        Raises:
            UserError: it is not the VAE whose latents the network was trained on.
        """
        self.recipe, self.jobs, self.vae = recipe, jobs, vae
        trained = recipe.meta.get("vae_fingerprint")
        if trained is not None and trained != (given := fingerprint(vae.state_dict())):
            raise UserError(
                f"the network was trained on latents of VAE {trained}, but vae_file holds VAE {given}; give the VAE "
                "that encoded the training images"
            )
        self.background = Background(WRITERS, HANDED_OVER)

    def attach(self, engine: Engine) -> None:
        """Write after every batch; when the engine is done, or stopped by an error, all that it writes is there."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.background.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def _start(self) -> None:
        self.started = time.perf_counter()

    def _stop(self, error: Exception) -> None:
        """Let what was handed over become complete; ignite leaves it to this handler to raise."""
        try:
            self.background.finish()
        except UserError as other:
            logger.error(other)
        raise error

    def __call__(self, engine: Engine) -> None:
        """Decode the batch's latents one volume at a time and hand them over to be written.

        Raises:
            UserError: numbers are not finite; names the cases, of which nothing is written. A volume handed over before
                could not be written.
        """
        batch, output = engine.state.output[CommonKeys.LABEL], engine.state.output[CommonKeys.PRED]
        positive = None if output.class_logits is None else output.class_logits.softmax(dim=1)[:, 1].tolist()
        finite = finite_cases(output)  # waits for the GPU, whose time belongs to sampling
        sampled = (time.perf_counter() - self.started) / len(batch)
        problems = Problems(f"sampling with amp {self.recipe.amp}")
        for index, job in enumerate(batch):
            if not finite[index]:
                problems.add(job.folder, "the network's latent or class is not finite", self._cure("model_file"))
                continue
            started = time.perf_counter()
            volumes = self._decode(output.latents[index])
            if not all(volume.isfinite().all() for volume in volumes.values()):
                problems.add(job.folder, "the decoded volume is not finite", self._cure("vae_file"))
                continue
            values = {sequence: to_scanner(volume, sequence) for sequence, volume in volumes.items()}
            seconds = sampled + time.perf_counter() - started
            record = self._record(job, None if positive is None else positive[index], seconds)
            self.background.start(self._write, job, values, record)
        problems.raise_if_any()

    def _cure(self, file: str) -> str:
        if self.recipe.amp == "fp16":
            return "give --amp fp32 or bf16, which do not overflow"
        return f"give another {file}: its weights are broken"

    @torch.inference_mode()
    def _decode(self, latent: Tensor) -> dict[str, Tensor]:
        """The volume (X, Y, Z) of each sequence, on the CPU."""
        dtype, parts = PRECISIONS[self.recipe.amp], latent.split(LATENT_CHANNELS)
        with torch.autocast(latent.device.type, dtype, enabled=dtype is not None):
            return {
                sequence: decode(self.vae, part[None])[0, 0].float().cpu()
                for sequence, part in zip(self.recipe.sequences, parts, strict=True)
            }

    def _record(self, job: Job, probability: float | None, seconds: float) -> Record:
        return Record(
            folder=job.folder,
            source=job.source,
            replicate=job.replicate,
            seed=job.seed,
            pirads_synth=None if probability is None else int(probability > 0.5),
            probability=probability,
            sequences=list(self.recipe.sequences),
            settings=job.settings,
            seconds=seconds,
            **job.row,
        )

    def _write(self, job: Job, volumes: dict[str, np.ndarray], record: Record) -> None:
        """Write a case, whose record says how many seconds it took so far."""
        # Processor time: by the clock, a volume would also be charged with what is written beside it.
        started, output_dir = time.thread_time(), self.jobs.output_dir
        folder = output_dir / job.folder
        # The record comes last: until then the case counts as not made.
        (folder / RECORD).unlink(missing_ok=True)
        for sequence, volume in volumes.items():
            save_nifti(folder / f"{sequence}.nii.gz", volume, job.affine, MARK)
        titles = [title(record, sequence) for sequence in volumes]
        montage(list(volumes.values()), titles, self.recipe.spacing, output_dir / f"{job.folder}.png")
        replace(record, seconds=round(record.seconds + time.thread_time() - started, 3)).write(output_dir)

    def finish(self) -> None:
        """Write this rank's sheets, and once all ranks are done the merged sheet and the datalists; tell where."""
        output_dir = self.jobs.output_dir
        records = [record for job in self.jobs.all if (record := self._current_record(job)) is not None]
        if self.jobs.typed:
            for record in records:
                print(f"{output_dir / record.folder}.png  {predicted(record)}")
                for sequence in record.sequences:
                    print(f"{output_dir / record.folder / sequence}.nii.gz")
            return
        sheets = idist.all_gather(write_rank_sheets(output_dir, idist.get_rank(), records))  # and all ranks are done
        if idist.get_rank() == 0:
            remove_other_rank_sheets(output_dir, [sheet for part in sheets for sheet in part])
            found = find_records(output_dir)
            merged = [record for record in found if record.folder in self.jobs.sheet]
            if len(merged) < len(found):
                logger.warning(
                    "%d volumes in %s are of no case or replicate of this run and stay out of sheet and datalists",
                    len(found) - len(merged), output_dir,
                )  # fmt: skip
            write_merged(output_dir, merged)
            print(f"{len(merged)} volumes, {SHEET} and datalists are in {output_dir}")

    def _current_record(self, job: Job) -> Record | None:
        """The job's record, written again where datalist or clinical sheet have changed since it was made."""
        record = read_record(self.jobs.output_dir, job.folder)
        if record is None or record == (current := replace(record, **job.row)):
            return record
        current.write(self.jobs.output_dir)
        return current


def finite_cases(sampled: Sample) -> list[bool]:
    """Whether latent and class logits of each case are finite."""
    finite = sampled.latents.isfinite().flatten(1).all(dim=1)
    if sampled.class_logits is not None:
        finite = finite & sampled.class_logits.isfinite().all(dim=1)
    return finite.tolist()


def predicted(record: Record) -> str:
    """The predicted class in words."""
    if record.pirads_synth is None:
        return "class not predicted by this variant"
    return f"PI-RADS {'3-5' if record.pirads_synth else '1-2'} (probability of 3-5: {record.probability:.2f})"


def title(record: Record, sequence: str) -> str:
    """A picture's title: the case and how it was made, and nothing of the report."""
    settings, guidance = record.settings, record.settings["guidance"]
    parts = [
        f"{record.folder} {sequence}",
        f"seed {settings['seed']}" + (f".{record.replicate}" if record.replicate else ""),
        f"{settings['scheduler']}, {settings['steps']} steps",
        f"guidance {guidance['report']:g} / {guidance['class']:g}",
        *([predicted(record)] if record.pirads_synth is not None else []),
    ]
    return "  ·  ".join(parts)

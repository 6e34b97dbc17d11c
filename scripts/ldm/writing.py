"""The handler that decodes and writes what is generated, and what is written beside the volumes."""

from __future__ import annotations

import logging
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, replace
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from joblib.externals.loky import ProcessPoolExecutor, cpu_count
from monai.utils import CommonKeys
from torch import Tensor, nn

from scripts.common.problems import Problems, UserError
from scripts.data.case_files import begin, write_case
from scripts.data.images import scanner_units
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
from scripts.engine.transfer import Moment
from scripts.ldm.jobs import Job, Jobs
from scripts.ldm.recipe import Recipe
from scripts.ldm.sampling import Sample
from scripts.vae.decode import decode
from scripts.vae.network import LATENT_CHANNELS, is_vae, prepare_inference, vae_fingerprint

logger = logging.getLogger(__name__)

# Processes that write for a GPU, which makes a volume in less time than one of them takes to write it; and volumes on
# their way to files, 0.4 GB with three sequences of full size.
WRITERS, HANDED_OVER = 4, 8


@dataclass(frozen=True)
class Made:
    """A case on its way from the device: numbers on the host that are there when `done` has come.

    Attributes:
        volumes: (X, Y, Z) int16 of each sequence.
        finite: (2,) whether the sampled latent and class are finite, and the decoded volumes.
        probability: () of the positive class, None without a head.
        begun, sampled: when the sampling of its batch of `batch` volumes began and ended.
        before: when the batch's volume before it was done.
    """

    volumes: dict[str, Tensor]
    finite: Tensor
    probability: Tensor | None
    batch: int
    begun: Moment
    sampled: Moment
    before: Moment
    done: Moment

    @property
    def seconds(self) -> float:
        """Of the device, for this volume."""
        return self.sampled.since(self.begun) / self.batch + self.done.since(self.before)


class VolumeWriter:
    """Decodes and writes every case of a batch when it is sampled, and the sheets and datalists at the end.

    The host never waits for a GPU, but where too many volumes are on their way: a case goes over while the next one is
    decoded, threads wait for it, and processes compress and draw. They are loky's, which import no more of the program
    than the function that they run, and so start in a second whatever it has imported. They live as long as a run.
    """

    def __init__(self, recipe: Recipe, jobs: Jobs, vae: nn.Module) -> None:
        """Take the VAE, in evaluation mode on its device, and prepare it for inference alone.

        Raises:
            UserError: it is not the VAE whose latents the network was trained on.
        """
        self.recipe, self.jobs, self.vae = recipe, jobs, vae
        trained = recipe.meta.get("vae_fingerprint")
        if not is_vae(vae, trained):
            raise UserError(
                f"the network was trained on latents of VAE {trained}, but vae_file holds VAE {vae_fingerprint(vae)}; "
                "give the VAE that encoded the training images"
            )
        prepare_inference(vae, PRECISIONS[recipe.amp])
        self.device = next(vae.parameters()).device
        self.background = Background(WRITERS, HANDED_OVER)
        self.problems = Problems(f"sampling with amp {recipe.amp}")

    def attach(self, engine: Engine) -> None:
        """Write after every batch; when the engine is done, or stopped by an error, all that it writes is there."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def _open(self) -> None:
        writers = min(WRITERS, cpu_count() // idist.get_nproc_per_node()) if self.device.type == "cuda" else 1
        self.processes = ProcessPoolExecutor(max(1, writers), initializer=begin)
        self.processes.submit(int)  # so that they start while the first volumes are sampled

    def _start(self) -> None:
        self.begun = Moment(self.device)

    def _complete(self) -> None:
        """Wait until all that was handed over is written.

        Raises:
            UserError: a volume could not be written, or cases are not finite.
        """
        try:
            self.background.finish()
        finally:
            self.processes.shutdown()
        self.problems.raise_if_any()

    def _stop(self, error: Exception) -> None:
        """Let what was handed over become complete; ignite leaves it to this handler to raise."""
        try:
            self.background.stop(error)
        finally:
            self.processes.shutdown()

    @torch.inference_mode()
    def __call__(self, engine: Engine) -> None:
        """Decode the batch's latents one volume at a time and hand them over to be written.

        Raises:
            UserError: numbers of earlier cases are not finite; names the cases, of which nothing is written. A volume
                handed over before could not be written.
        """
        self.problems.raise_if_any()
        batch, output = engine.state.output[CommonKeys.LABEL], engine.state.output[CommonKeys.PRED]
        sampled, finite = Moment(self.device), finite_cases(output)
        positive = [None] * len(batch)
        if output.class_logits is not None:
            positive = output.class_logits.softmax(dim=1)[:, 1].to("cpu", non_blocking=True).unbind()
        before = sampled
        for job, latent, is_finite, probability in zip(batch, output.latents, finite, positive, strict=True):
            volumes = self._decode(latent)
            decoded = torch.stack([volume.isfinite().all() for volume in volumes.values()]).all()
            # Asynchronously PyTorch copies to pinned memory of its own accord.
            values = {
                sequence: scanner_units(volume, sequence).to("cpu", non_blocking=True)
                for sequence, volume in volumes.items()
            }
            checks = torch.stack([is_finite, decoded]).to("cpu", non_blocking=True)
            done = Moment(self.device)
            made = Made(values, checks, probability, len(batch), self.begun, sampled, before, done)
            self.background.start(self._write, job, made)
            before = done

    def _decode(self, latent: Tensor) -> dict[str, Tensor]:
        """The volume (X, Y, Z) of each sequence."""
        dtype, parts = PRECISIONS[self.recipe.amp], latent.split(LATENT_CHANNELS)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            return {
                sequence: decode(self.vae, part[None])[0, 0]
                for sequence, part in zip(self.recipe.sequences, parts, strict=True)
            }

    def _write(self, job: Job, made: Made) -> None:
        """Write a case as soon as it is there, unless it is not finite; its record says how many seconds it took."""
        made.done.wait()
        sampled, decoded = made.finite.tolist()
        if not sampled:
            self.problems.add(job.folder, "the network's latent or class is not finite", self._cure("model_file"))
        elif not decoded:
            self.problems.add(job.folder, "the decoded volume is not finite", self._cure("vae_file"))
        else:
            record, output_dir = self._record(job, made), self.jobs.output_dir.absolute()
            # The record comes last: until then the case counts as not made.
            (output_dir / job.folder / RECORD).unlink(missing_ok=True)
            volumes = {sequence: volume.numpy() for sequence, volume in made.volumes.items()}
            titles = [title(record, sequence) for sequence in volumes]
            writing = self.processes.submit(
                write_case, output_dir / job.folder, volumes, job.affine, MARK, titles, self.recipe.spacing
            )
            try:
                seconds = writing.result()
            except BrokenExecutor:
                raise UserError(
                    f"{job.folder} is not complete: the process that wrote it was killed, mostly for want of memory. "
                    "Give the same command again; what was complete is kept"
                ) from None
            # Processor time: by the clock, a volume would also be charged with what is written beside it.
            replace(record, seconds=round(made.seconds + seconds, 3)).write(output_dir)

    def _cure(self, file: str) -> str:
        if self.recipe.amp == "fp16":
            return "give --amp fp32 or bf16, which do not overflow"
        return f"give another {file}: its weights are broken"

    def _record(self, job: Job, made: Made) -> Record:
        probability = None if made.probability is None else made.probability.item()
        return Record(
            folder=job.folder,
            source=job.source,
            replicate=job.replicate,
            seed=job.seed,
            pirads_synth=None if probability is None else int(probability > 0.5),
            probability=probability,
            sequences=list(self.recipe.sequences),
            settings=job.settings,
            **job.row,
        )

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


def finite_cases(sampled: Sample) -> Tensor:
    """Whether latent and class logits of each case are finite, (B,) on their device."""
    finite = sampled.latents.isfinite().flatten(1).all(dim=1)
    return finite if sampled.class_logits is None else finite & sampled.class_logits.isfinite().all(dim=1)


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
        f"guidance {guidance['report']:g} / {guidance['class']:g}{_corrections(guidance)}",
        *([predicted(record)] if record.pirads_synth is not None else []),
    ]
    return "  ·  ".join(parts)


def _corrections(guidance: dict[str, Any]) -> str:
    """What of a record's guidance is on beside weights and interval."""
    worse = " by a worse model" if "model" in guidance else ""
    on = (f", {name} {guidance[name]:g}" for name in ("rescale", "parallel", "norm", "momentum") if name in guidance)
    return worse + "".join(on)

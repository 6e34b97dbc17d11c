"""Pictures to watch: every few epochs the same held-out reports are sampled and shown side by side in TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Sequence

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardHandler
from torch import nn

from scripts.common.problems import UserError
from scripts.data.montage import plane
from scripts.ldm.dataset import LatentDataset
from scripts.ldm.guidance import Guidance
from scripts.ldm.latent_scale import restored
from scripts.ldm.objective import NoisyBatch
from scripts.ldm.sampling import case_generator, case_seed, sample
from scripts.ldm.schedule import make_scheduler
from scripts.networks.ccella import CCELLA
from scripts.vae.decode import decode
from scripts.vae.network import LATENT_CHANNELS, is_vae, load_vae, vae_fingerprint


class SamplePictures(TensorBoardHandler):
    """Samples the first cases of a data set, always from the same noise, and writes their middle axial slices.

    One row for each sequence, one column for each case; nothing of the reports is shown.

    Args:
        network: what is sampled, such as the moving average's module.
        examples: the cases whose reports, classes and spacings condition the volumes.
        prepare: knows the objective, the network's answer, the timestep shift and how latents are normalised.
        vae, vae_file: decodes the latents.
        channels: names of the sequences.
        every: epochs between pictures.
        count: cases.
        scheduler, steps, guidance: as in inference; `guidance` weighs report and class alike.
        log_dir: of TensorBoard.

    Raises:
        UserError: no case is held out; the VAE's weights are missing, do not fit, or did not make the latents.
    """

    def __init__(
        self,
        network: CCELLA,
        examples: LatentDataset,
        prepare: NoisyBatch,
        vae: nn.Module,
        vae_file: str | os.PathLike[str],
        channels: Sequence[str],
        *,
        every: int,
        count: int,
        scheduler: str,
        steps: int,
        guidance: float,
        log_dir: str,
    ) -> None:
        if not len(examples):
            raise UserError("no case is held out to sample pictures of; raise val_fraction or leave pictures.yaml out")
        super().__init__(log_dir=log_dir)
        self.network, self.examples, self.prepare = network, examples, prepare
        self.vae = load_vae(vae, vae_file)
        trained = examples.cases[0].fingerprint
        if not is_vae(self.vae, trained):
            raise UserError(
                f"the latents were made by VAE {trained}, but vae_file holds VAE {vae_fingerprint(self.vae)}; give the "
                "one that made them"
            )
        self.channels, self.every, self.count = channels, every, min(count, len(examples))
        self.schedule = make_scheduler(
            scheduler,
            prepare.objective,
            steps,
            examples.shape[1:],
            prepare.timestep_shift,
            prediction=prepare.prediction,
        )
        self.guidance = Guidance(report=guidance, class_=guidance)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    def __call__(self, engine: Engine) -> None:
        """Sample, decode and write; the first rank does it."""
        if idist.get_rank():
            return
        for name, row in zip(self.channels, self.rows(engine.state.device), strict=True):
            self._writer.add_image(f"samples/{name}", row[None], engine.state.epoch)
        self._writer.flush()

    @torch.inference_mode()
    def rows(self, device: torch.device) -> list[np.ndarray]:
        """For each sequence the cases' middle axial slices beside each other (Y, count·X), in 0..1."""
        batch = [self.examples[index] for index in range(self.count)]
        latents, _ = sample(
            self.network.eval(),
            self.schedule,
            self.examples.shape,
            [example["embedding"] for example in batch],
            [case_generator(case_seed(0, example["folder"])) for example in batch],
            null=self.examples.empty,
            pirads=torch.stack([example["pirads"] for example in batch]).to(device),
            spacing=torch.stack([example["spacing"] for example in batch]).to(device),
            guidance=self.guidance,
        )
        vae = self.vae.to(device)
        rows = []
        for part in restored(latents, self.prepare.scale).split(LATENT_CHANNELS, dim=1):
            volumes = [decode(vae, latent[None])[0, 0].float().cpu().numpy() for latent in part]
            rows.append(np.concatenate([plane(v, "axial", v.shape[2] // 2) for v in volumes], axis=1))
        return rows

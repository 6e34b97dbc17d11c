"""The pieces that MONAI's evaluator samples latents with: a batch of jobs, and the inferer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from monai.engines.utils import PrepareBatch
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from scripts.engine.precision import PRECISIONS, half_weights
from scripts.engine.replay import Replayed
from scripts.engine.transfer import sent
from scripts.ldm.jobs import Job, Jobs
from scripts.ldm.latent_scale import restored
from scripts.ldm.recipe import Recipe
from scripts.ldm.sampling import AdapterCache, Asked, Sample, case_generator, guided_prediction, sample
from scripts.networks.ccella import CCELLA
from scripts.networks.unet import fold_upsampling
from scripts.networks.weights import Header, load_weights, read_header


class JobBatch(PrepareBatch):
    """A list of jobs as the inferer takes it: seeds (B,), the jobs as targets, and what conditions them."""

    def __call__(
        self,
        batchdata: Sequence[Job],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Sequence[Job], tuple[()], dict[str, Any]]:
        """Seeds stay on the CPU, where the noise is drawn, and embeddings, which the device may have already."""
        device = torch.device(device or "cpu")
        conditions = {
            "embeddings": [job.embedding and job.embedding.read() for job in batchdata],
            "pirads": sent(torch.tensor([job.pirads for job in batchdata], dtype=torch.float32), device),
            "spacing": sent(torch.tensor([job.entry["spacing"] for job in batchdata], dtype=torch.float32), device),
        }
        return torch.tensor([job.seed for job in batchdata]), batchdata, (), conditions


def worse_network(path: str | os.PathLike[str] | None, network: CCELLA) -> CCELLA | None:
    """The network of a weights file, beside `network` and built like it but for what the file says; None for no file.

    Raises:
        UserError: the weights do not fit.
    """
    if not path:
        return None
    worse = CCELLA(**network.config | read_header(path).config)
    load_weights(path, worse)
    return worse.to(next(network.parameters()).device).eval()


class LatentInferer(Inferer):
    """Runs the sampling loop; its latents are those of the VAE, as it decodes them."""

    def __init__(
        self,
        recipe: Recipe,
        jobs: Jobs,
        header: Header,
        network: CCELLA,
        compile: bool = False,
        worse: CCELLA | None = None,
    ) -> None:
        """Take the networks, in evaluation mode on their device, and prepare them for sampling alone.

        Args:
            compile: the U-Nets, before their steps are recorded.
            worse: of `worse_network`.
        """
        self.recipe, self.null = recipe, jobs.null
        self.device = next(network.parameters()).device
        self.scale = header.scale
        self.adapter, self.ask = self._prepare(network, compile)
        self.worse = None if worse is None else self._prepare(worse, compile)

    def _prepare(self, network: CCELLA, compile: bool) -> Asked:
        fold_upsampling(network.unet)
        half_weights(network, PRECISIONS[self.recipe.amp])
        network.to(memory_format=torch.channels_last_3d)
        if compile:
            network.unet.compile(dynamic=False)
        return Asked(AdapterCache(network, self.recipe.schedule), Replayed(partial(guided_prediction, network)))

    def __call__(
        self,
        inputs: Tensor,
        network: CCELLA,
        embeddings: Sequence[Tensor],
        pirads: Tensor,
        spacing: Tensor,
    ) -> Sample:
        """Latents (B, C, X, Y, Z) and class logits (B, 2) for seeds (B,)."""
        recipe, dtype = self.recipe, PRECISIONS[self.recipe.amp]
        steps = tqdm(total=len(recipe.schedule), desc="sampling", unit="step", leave=False, disable=None)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None), steps:
            latents, logits = sample(
                network,
                recipe.schedule,
                recipe.shape,
                embeddings,
                [case_generator(seed) for seed in inputs.tolist()],
                null=self.null,
                pirads=pirads,
                spacing=spacing,
                guidance=recipe.guidance,
                adapter=self.adapter,
                ask=self.ask,
                worse=self.worse,
                on_step=lambda done, total: steps.update(),
            )
        return Sample(restored(latents, self.scale), logits)

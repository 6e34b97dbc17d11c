"""Encode, decode and reconstruct whole datalists: what each mode reads, runs and writes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import nibabel as nib
import torch
from ignite.engine import Engine, Events
from monai.engines import PrepareBatch, SupervisedEvaluator
from monai.inferers import Inferer
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.utils.data import Dataset

from scripts.data.images import save_volume
from scripts.data.latents import find_latent, latent_path, read_latent, write_latent
from scripts.data.outputs import montage
from scripts.files import inside
from scripts.precision import precision
from scripts.problems import Problems, UserError
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.volumes import VolumeDataset

logger = logging.getLogger(__name__)
MODES = ("encode", "decode", "reconstruct")


def is_encoded(path: str | os.PathLike[str], fingerprint: str) -> bool:
    """Whether `path` is a complete latent of the VAE with this fingerprint."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("vae_fingerprint") == fingerprint
    except (OSError, SafetensorError):
        return False


class LatentDataset(Dataset):
    """The stored latents of volumes; item: `image` the mean (4, X, Y, Z), `folder`, `sequence`, `affine` (4, 4)."""

    def __init__(self, data: Sequence[Mapping[str, Any]], latent_dir: str | os.PathLike[str], fingerprint: str) -> None:
        """Check that every latent is there and was made by this VAE.

        Raises:
            UserError: every latent that is missing, damaged, or of another VAE.
        """
        self.data = list(data)
        self.paths = []
        problems = Problems("latents")
        for volume in self.data:
            try:
                path = find_latent(latent_dir, volume["folder"], volume["sequence"])
                made_by = read_latent(path).fingerprint
            except UserError as error:
                problems.add(volume["folder"], str(error))
                continue
            self.paths.append(path)
            if made_by not in (None, fingerprint):
                what = f"{path.name} was made by VAE {made_by}, the weights are of VAE {fingerprint}"
                problems.add(volume["folder"], what, "give the VAE's own weights, or encode again")
        problems.raise_if_any()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume, latent = self.data[index], read_latent(self.paths[index])
        named = {name: volume[name] for name in ("folder", "sequence")}
        return {"image": latent.mu, "affine": torch.from_numpy(latent.affine.copy()), **named}


def make_dataset(
    volumes: Sequence[Mapping[str, Any]], mode: str, latent_dir: str | os.PathLike[str], fingerprint: str
) -> Dataset:
    """This rank's part of what `mode` still has to do.

    Raises:
        UserError: the mode is not known, or latents to decode do not fit.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r} is not known; give one of {', '.join(MODES)}")
    if mode == "decode":
        own = volumes[idist.get_rank() :: idist.get_world_size()]
        return LatentDataset(own, latent_dir, fingerprint)
    todo = list(volumes)
    if mode == "encode":
        # All ranks look before any writes, else their parts would overlap or leave gaps.
        todo = [v for v in todo if not is_encoded(latent_path(latent_dir, v["folder"], v["sequence"]), fingerprint)]
        idist.barrier()
        logger.info(f"{len(volumes) - len(todo)} of {len(volumes)} volumes are encoded already")
    return VolumeDataset(todo[idist.get_rank() :: idist.get_world_size()], cache=False)


class BatchInput(PrepareBatch):
    """The batch's `image` (image or latent mean) on the device; there is no target."""

    def __call__(
        self, batchdata: Mapping[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Move the input to `device`."""
        return batchdata["image"].to(device, non_blocking=non_blocking, **kwargs), None


class Codec(Inferer):
    """One mode of the autoencoder as MONAI's inferer: whole volumes where memory allows, else windows."""

    def __init__(self, mode: str, amp: str = "fp32") -> None:
        super().__init__()
        self.mode, self.dtype = mode, precision(amp)

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Give `mu` and `sigma` (B, 4, X/4, ...) where images came in, `image` (B, 1, X, ...) where images go out."""
        with torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype is not None):
            if self.mode == "decode":
                return {"image": decode(network, inputs)}
            mu, sigma = encode(network, inputs)
            if self.mode == "encode":
                return {"mu": mu, "sigma": sigma}
            return {"mu": mu, "sigma": sigma, "image": decode(network, mu)}


class VolumeEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, except that having nothing left to do is no error: a resumed encode may be complete."""

    def run(self) -> None:
        """Go through the volumes once."""
        if len(self.data_loader) > 0:
            super().run()
        else:
            logger.info("nothing left to do")


class Writer:
    """Handler: writes what a mode gives, case by case, each file complete or not at all.

    encode: `<latent_dir>/<folder>/<sequence>_latent.safetensors`. decode and reconstruct:
    `<output_dir>/<folder>/<sequence>.nii.gz` in scanner-like units; reconstruct also draws `<sequence>.png`, the image
    above its reconstruction.
    """

    def __init__(
        self, mode: str, latent_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str], fingerprint: str
    ) -> None:
        self.mode, self.latent_dir, self.output_dir, self.fingerprint = mode, latent_dir, Path(output_dir), fingerprint
        self.written = 0

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def finish(self, engine: Engine) -> None:
        """Say what was done."""
        where = self.latent_dir if self.mode == "encode" else self.output_dir
        logger.info(f"{self.mode}: {self.written} volumes written below {where}")

    def __call__(self, engine: Engine) -> None:
        """Write the cases of one batch."""
        batch, given = engine.state.batch, engine.state.output["pred"]
        for index, (folder, sequence) in enumerate(zip(batch["folder"], batch["sequence"], strict=True)):
            affine = batch["affine"][index].numpy()
            own = {name: values[index].cpu() for name, values in given.items()}
            if self.mode == "encode":
                self._write_latent(folder, sequence, own, affine, tuple(batch["image"].shape[2:]))
            else:
                self._write_image(folder, sequence, own["image"], affine, batch["image"][index])
            self.written += 1

    def _write_latent(
        self, folder: str, sequence: str, own: dict[str, torch.Tensor], affine: Any, shape: tuple[int, ...]
    ) -> None:
        path = latent_path(self.latent_dir, folder, sequence)
        write_latent(path, own["mu"], own["sigma"], fingerprint=self.fingerprint, affine=affine, shape=shape)

    def _write_image(self, folder: str, sequence: str, image: torch.Tensor, affine: Any, source: torch.Tensor) -> None:
        path = inside(self.output_dir, Path(folder) / f"{sequence}.nii.gz")
        save_volume(path, image[0], affine, sequence)
        if self.mode == "reconstruct":
            pair = [source[0].numpy(), image[0].numpy()]
            titles = [f"{folder} {sequence}", "reconstruction"]
            montage(pair, titles, nib.affines.voxel_sizes(affine), path.with_name(f"{sequence}.png"))

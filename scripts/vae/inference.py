"""Encode, decode and reconstruct whole datalists: what each mode reads, runs and writes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import PrepareBatch, SupervisedEvaluator
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import Dataset

from scripts.common.files import inside
from scripts.common.identity import file_identity
from scripts.common.problems import Problems, UserError
from scripts.data.images import read_description, refuse_overwriting, save_volume
from scripts.data.latents import find_latent, latent_path, read_latent, read_latent_header, read_made_from, write_latent
from scripts.data.montage import montage
from scripts.engine.background import Background
from scripts.engine.precision import precision
from scripts.engine.share import for_all
from scripts.engine.transfer import Moment
from scripts.vae.decode import decode
from scripts.vae.encode import encode
from scripts.vae.network import prepare_inference
from scripts.vae.volumes import VolumeDataset

logger = logging.getLogger(__name__)
MODES = ("encode", "decode", "reconstruct")
WRITERS, HANDED_OVER = 4, 8  # threads, which compress without holding each other up; and volumes on their way to files


def origin(volume: Mapping[str, Any], mode: str, latent_dir: str | os.PathLike[str], fingerprint: str, amp: str) -> str:
    """A line that two outputs share when they are the same: mode, VAE, precision, and identity of what is read.

    Empty where a file is missing or damaged, which the data set tells together with all others.
    """
    try:
        is_decode = mode == "decode"
        source = find_latent(latent_dir, volume["folder"], volume["sequence"]) if is_decode else volume["path"]
        return f"{mode} {fingerprint} {amp} {file_identity(source, ['affine'])}"
    except UserError:
        return ""


def output_path(
    volume: Mapping[str, Any], mode: str, latent_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str]
) -> Path:
    """Where the latent or the image of a volume goes; the path stays inside its folder."""
    if mode == "encode":
        return latent_path(latent_dir, volume["folder"], volume["sequence"])
    return inside(output_dir, Path(volume["folder"]) / f"{volume['sequence']}.nii.gz")


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
                made_by = read_latent_header(path).fingerprint
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
        named = {name: volume[name] for name in ("folder", "sequence", "made_from")}
        return {"image": latent.mu, "affine": torch.from_numpy(latent.affine.copy()), **named}


def make_dataset(
    volumes: Sequence[Mapping[str, Any]],
    mode: str,
    latent_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    fingerprint: str,
    amp: str = "fp32",
) -> Dataset:
    """This rank's part of what `mode` still has to do: what is there from the same VAE and file is left alone.

    Raises:
        UserError: latents to decode do not fit, images are not usable, or a volume would
            replace one that is not ours.
    """
    read = read_made_from if mode == "encode" else read_description

    def is_there(volume: Mapping[str, Any]) -> bool:
        made_from = volume["made_from"]
        return bool(made_from) and read(output_path(volume, mode, latent_dir, output_dir)) == made_from

    read_origin = partial(origin, mode=mode, latent_dir=latent_dir, fingerprint=fingerprint, amp=amp)
    origins = for_all(read_origin, volumes)
    marked = [{**volume, "made_from": made_from} for volume, made_from in zip(volumes, origins, strict=True)]
    todo = [volume for volume in marked if not is_there(volume)]
    if mode != "encode":
        problems = Problems(f"volumes in {output_dir}")
        paths = ((volume["folder"], output_path(volume, mode, latent_dir, output_dir)) for volume in todo)
        refuse_overwriting(paths, MODES, problems)
        problems.raise_if_any()
    idist.barrier()  # all ranks look before any writes, else their parts would overlap or leave gaps
    logger.info(f"{mode}: {len(volumes) - len(todo)} of {len(volumes)} volumes are there already")
    own = todo[idist.get_rank() :: idist.get_world_size()]
    return LatentDataset(own, latent_dir, fingerprint) if mode == "decode" else VolumeDataset(own, cache=False)


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
    """MONAI's evaluator of a `Codec`, whose network it prepares for inference alone.

    Having nothing left to do is no error: a resumed encode may be complete.
    """

    def run(self) -> None:
        """Go through the volumes once."""
        if len(self.data_loader) > 0:
            prepare_inference(self.network, self.inferer.dtype)  # all that asks for the fingerprint has got it
            super().run()
        else:
            logger.info("nothing left to do")


class Writer:
    """Handler: writes what a mode gives, case by case, each file complete or not at all, while the next ones are made.

    The host does not wait for a GPU, but where too many cases are on their way: threads do, and write.

    encode: `<latent_dir>/<folder>/<sequence>_latent.safetensors`. decode and reconstruct:
    `<output_dir>/<folder>/<sequence>.nii.gz` in scanner-like units; reconstruct first draws `<sequence>.png`, the image
    above its reconstruction.
    """

    def __init__(
        self, mode: str, latent_dir: str | os.PathLike[str], output_dir: str | os.PathLike[str], fingerprint: str
    ) -> None:
        self.mode, self.latent_dir, self.output_dir, self.fingerprint = mode, latent_dir, output_dir, fingerprint
        self.written = 0
        self.background = Background(WRITERS, HANDED_OVER)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.background.stop)

    def finish(self, engine: Engine) -> None:
        """Wait until all that was handed over is written, and say so.

        Raises:
            UserError: what the VAE gave is not finite, or a file could not be written.
        """
        self.background.finish()
        where = self.latent_dir if self.mode == "encode" else self.output_dir
        logger.info(f"{self.mode}: {self.written} volumes written below {where}")

    def __call__(self, engine: Engine) -> None:
        """Hand the cases of one batch over to be written.

        Raises:
            UserError: what the VAE gave for an earlier case is not finite, or its file could not be written.
        """
        batch, given = engine.state.batch, engine.state.output["pred"]
        for index in range(len(batch["folder"])):
            volume = {name: batch[name][index] for name in ("folder", "sequence", "made_from", "image")}
            own = {name: values[index].to("cpu", non_blocking=True) for name, values in given.items()}
            done = Moment(next(iter(given.values())).device)
            self.background.start(self._write, volume, batch["affine"][index].numpy(), own, done)
            self.written += 1

    def _write(
        self, volume: Mapping[str, Any], affine: np.ndarray, own: Mapping[str, torch.Tensor], done: Moment
    ) -> None:
        """Write one case, whose tensors are there when `done` has come."""
        done.wait()
        if not all(values.isfinite().all() for values in own.values()):
            raise UserError(
                f"{volume['folder']}: the VAE's {self.mode} of {volume['sequence']} is not finite; give --amp fp32 "
                "or bf16, or other weights"
            )
        path = output_path(volume, self.mode, self.latent_dir, self.output_dir)
        if self.mode == "encode":
            shape, made_from = tuple(volume["image"].shape[1:]), volume["made_from"]
            about = {"fingerprint": self.fingerprint, "affine": affine, "shape": shape, "made_from": made_from}
            write_latent(path, own["mu"], own["sigma"], **about)
        else:
            self._write_image(path, volume, own["image"][0], affine)

    def _write_image(self, path: Path, volume: Mapping[str, Any], image: torch.Tensor, affine: np.ndarray) -> None:
        sequence = volume["sequence"]
        if self.mode == "reconstruct":  # before the volume, which tells that all is there
            pair = [volume["image"][0].numpy(), image.numpy()]
            titles = [f"{volume['folder']} {sequence}", "reconstruction"]
            montage(pair, titles, nib.affines.voxel_sizes(affine), path.with_name(f"{sequence}.png"))
        save_volume(path, image, affine, sequence, volume["made_from"])

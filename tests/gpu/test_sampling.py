"""From a report to a volume: the same from one seed on a GPU and on a CPU, in bf16 nearly so, and never of NaN."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import create_workflow

from closeness import apart
from scripts.data.images import SCANNER_UNITS
from scripts.engine.replay import Replayed
from scripts.ldm.guidance import Guidance
from scripts.ldm.sampling import AdapterCache, Asked, Sample, case_generator, guided_prediction, sample
from scripts.ldm.schedule import make_scheduler
from scripts.networks.ccella import CCELLA
from scripts.showcase.stages import BUNDLES, REPOSITORY, bundle
from scripts.vae.decode import decode
from scripts.vae.network import LATENT_CHANNELS, maisi_vae

pytestmark = pytest.mark.gpu

REPORT = "Impression: 16 mm lesion in the left peripheral zone at the base, PI-RADS 5."
STEPS = 20


def sampled(
    network: CCELLA, embeddings: list[torch.Tensor], shape: tuple[int, ...], steps: int = STEPS, **options
) -> Sample:
    """Latents of all reports but the last, which is the empty one, guided by both conditions."""
    *reports, null = embeddings
    device = next(network.parameters()).device
    return sample(
        network,
        make_scheduler("dpmpp_2m", "rflow", steps, shape[1:], 3.0),
        shape,
        reports,
        [case_generator(seed) for seed, _ in enumerate(reports)],
        null=null,
        spacing=torch.tensor([[1.25, 1.25, 1.875]] * len(reports), device=device),
        **{"guidance": Guidance(4.0, 4.0), **options},
    )


def test_one_seed_gives_one_latent_on_both_devices(device, tiny_network, record_property):
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(5, 12, generator=generator) for _ in range(3)]
    found = sampled(tiny_network, texts, (4, 8, 8, 8))
    expected = sampled(tiny_network.cpu(), texts, (4, 8, 8, 8))
    record_property("apart", apart(found.latents, expected.latents))
    assert apart(found.latents, expected.latents) < 1e-4
    assert apart(found.class_logits, expected.class_logits) < 1e-4


def test_one_seed_gives_one_latent_with_trained_weights(device, demo, record_property):
    """Twenty guided steps carry rounding along: on a CPU, other kernels lie 1.5e-6 apart."""
    found, expected = (sampled(network, demo.embeddings, demo.size.latent) for network in (demo.network, demo.cpu))
    record_property("apart", apart(found.latents, expected.latents))
    assert apart(found.latents, expected.latents) < 1e-4


def test_steps_that_are_captured_give_the_same_latents(device, demo, record_property):
    """Those of one batch, and of the next of another size, which is captured anew."""
    ask = Replayed(partial(guided_prediction, demo.network))
    for reports in (demo.embeddings, demo.embeddings[1:], demo.embeddings):
        expected = sampled(demo.network, reports, demo.size.latent, 3)
        found = sampled(demo.network, reports, demo.size.latent, 3, ask=ask)
        record_property(f"apart_{len(reports) - 1}", apart(found.latents, expected.latents))
        assert apart(found.latents, expected.latents) < 1e-5


def test_corrected_guidance_by_another_network_gives_the_same_latents_captured(device, demo, record_property):
    """Both networks are recorded; what is done to the pull is not."""
    guidance = Guidance(3.0, 3.0, by_worse=True, rescale=0.5, parallel=0.2, norm=0.5, momentum=-0.5)
    worse = copy.deepcopy(demo.network)
    with torch.no_grad():
        for parameter in worse.unet.parameters():
            parameter.mul_(0.98)
    made = []
    for recorded in (False, True):
        ask, other = (partial(guided_prediction, network) for network in (demo.network, worse))
        if recorded:
            ask, other = Replayed(ask), Replayed(other)
        schedule = make_scheduler("dpmpp_2m", "rflow", 3, demo.size.latent[1:], 3.0)
        given = {"ask": ask, "worse": Asked(AdapterCache(worse, schedule), other), "guidance": guidance}
        made.append(sampled(demo.network, demo.embeddings, demo.size.latent, 3, **given).latents)
    record_property("apart", apart(made[1], made[0]))
    assert apart(made[1], made[0]) < 1e-5


def test_bf16_gives_nearly_the_latents_and_volumes_of_fp32(device, demo, tiny_network, small, record_property):
    """Latents by their norm, volumes by the mean difference in units of 0 to 1.

    With what enters and leaves each layer rounded to bf16, a CPU gives 0.006 and 0.0012.
    """
    network, vae, embeddings, shape = demo.network, demo.vae, demo.embeddings, demo.size.latent
    if device.type == "cpu":  # whose bf16 would take minutes
        network, vae, shape = tiny_network, maisi_vae(**small.vae).eval(), small.latent
        embeddings = [embedding[:, : small.width] for embedding in embeddings]
    full = sampled(network, embeddings, shape)
    with torch.autocast(device.type, torch.bfloat16):
        half = sampled(network, embeddings, shape)
        half_volume = decode(vae, half.latents[:, :LATENT_CHANNELS])
    volume = decode(vae, full.latents[:, :LATENT_CHANNELS])
    difference = (half_volume - volume).abs().mean().item()
    record_property("latents_apart", apart(half.latents, full.latents))
    record_property("volumes_apart", difference)
    assert apart(half.latents, full.latents) < 0.05
    assert difference < 0.01


def test_a_typed_report_gives_the_volume_of_the_cpu(device, tmp_path, record_property):
    """As it is typed, in the precision of the device: the mean difference in units of 0 to 1."""
    hidden = {
        "cpu": {"CUDA_VISIBLE_DEVICES": ""},
        "device": {} if device.type == "cuda" else {"CUDA_VISIBLE_DEVICES": ""},
    }
    running = {}
    for name, environment in hidden.items():
        command = bundle("ccella_ldm", "inference", ("demo",), report=REPORT, output_dir=tmp_path / name)
        running[name] = subprocess.Popen(
            command, cwd=REPOSITORY, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    printed = {name: process.communicate(timeout=120)[0].decode() for name, process in running.items()}
    for name, process in running.items():
        assert process.returncode == 0, printed[name]
    volumes = [np.asarray(nib.load(tmp_path / name / "report" / "axt2.nii.gz").dataobj, float) for name in running]
    made = json.loads((tmp_path / "device" / "report" / "generated.json").read_text())["settings"]
    difference = np.abs(volumes[0] - volumes[1]).mean() / SCANNER_UNITS["axt2"]
    record_property("amp", made["amp"])
    record_property("mean_difference", float(difference))
    assert difference < 0.01
    assert volumes[1].std() > 50


def test_a_network_of_nan_is_told_and_nothing_is_written(device, tmp_path, refused):
    configs = [str(BUNDLES / "ccella_ldm" / "configs" / f"{name}.yaml") for name in ("inference", "demo")]
    workflow = create_workflow(
        config_file=configs, workflow_type="infer", logging_file=False, bundle_root=str(BUNDLES / "ccella_ldm"),
        report=REPORT, output_dir=str(tmp_path), steps=2, device=device,
    )  # fmt: skip
    evaluator, network = (workflow.parser.get_parsed_content(name) for name in ("evaluator", "network"))
    with torch.no_grad():
        next(network.unet.parameters()).fill_(float("nan"))
    with refused("not finite"):
        evaluator.run()
    assert not list(Path(tmp_path).rglob("*.nii.gz"))

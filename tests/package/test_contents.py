"""Weights of a package fit each other, by what they say of themselves and not by their names."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

import tiny
from generating import make_authors_weights, make_weights
from packages import OVERLAYS
from scripts.package.configs import folded
from scripts.package.contents import KINDS, MODEL, MODEL_PT, VAE, write_contents
from scripts.vae.network import maisi_vae, save_vae


@pytest.fixture
def collect(sources, repo_root):
    """Gives the contents of a package, made of these files in place of those that fit."""

    def run(bundle: str, **changes: object):
        given = dict(sources.paths[bundle])
        given[KINDS[bundle].weights] = given.pop("weights")
        base = repo_root / "bundles" / bundle / "configs" / "inference.yaml"
        _, config = folded(base, [sources.root / f"{bundle}.json"], given | changes)
        return KINDS[bundle].collect(ConfigParser({**config, "bundle_root": str(repo_root / "bundles" / bundle)}))

    return run


@pytest.mark.parametrize("bundle", list(OVERLAYS))
def test_model_pt_is_a_state_that_loads_without_unpickling_anything(collect, tmp_path, bundle):
    write_contents(collect(bundle), tmp_path)
    state = torch.load(tmp_path / MODEL_PT, weights_only=True)
    assert all(type(tensor) is torch.Tensor for tensor in state.values())
    assert (tmp_path / MODEL).is_file()


def test_a_generator_takes_no_vae_but_that_of_its_latents(collect, tmp_path, refused):
    torch.manual_seed(1)
    save_vae(maisi_vae(**tiny.VAE), tmp_path / "other.safetensors")
    with refused(r"trained on latents of VAE [0-9a-f]{16}, and .*other\.safetensors is VAE"):
        collect("ccella_ldm", vae_file=str(tmp_path / "other.safetensors"))
    assert VAE in collect("ccella_ldm").write


def test_a_generator_takes_no_text_encoder_but_its_own(collect, tmp_path, refused):
    with refused("text_encoder is None"):
        collect("ccella_ldm", text_encoder=None)
    with refused("trained with text encoder"):
        collect("ccella_ldm", max_tokens=7)  # is part of an encoder's fingerprint


def test_a_variant_that_reads_no_reports_needs_no_text_encoder(collect, tmp_path):
    make_weights(tmp_path / "maisi.safetensors", "MAISI", channels=["axt2"])
    contents = collect("ccella_ldm", model_file=str(tmp_path / "maisi.safetensors"), variant="MAISI", text_encoder=None)
    assert not [place for place in contents.write if "text_encoder" in place]
    assert set(contents.absent) == {"text_encoding", "text_mask", "pirads", "class_keep"}


def test_checkpoints_of_the_authors_are_refused(collect, tmp_path, refused):
    make_authors_weights(tmp_path / "model.pt")
    with refused("no safetensors file"):
        collect("ccella_ldm", model_file=str(tmp_path / "model.pt"), channels=["axt2"])


def test_inputs_and_outputs_are_those_of_the_weights(collect):
    changes = collect("ccella_ldm").changes
    assert changes["inputs#text_encoding#num_channels"] == 16
    assert changes["inputs#image#spatial_shape"] == ["2*n"] * 3
    assert changes["outputs#pred#channel_def"]["0"] == "velocity 0"
    changes = collect("classifier").changes
    assert changes["inputs#image#spatial_shape"] == [32, 32, 32]
    assert changes["inputs#image#channel_def"] == {"0": "axt2"}


def test_a_classifier_of_another_grid_is_refused(collect, refused):
    with refused("was trained with spacing"):
        collect("classifier", spacing=[1.0, 1.0, 1.0])


def test_the_published_vae_becomes_ours(collect, sources, tmp_path):
    state = maisi_vae(**tiny.VAE).state_dict()
    torch.save({"unet_state_dict": state}, tmp_path / "autoencoder.pt")
    write_contents(collect("vae", weights=str(tmp_path / "autoencoder.pt")), tmp_path / "out")
    again = torch.load(tmp_path / "out" / MODEL_PT, weights_only=True)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_weights_of_another_network_are_refused(collect, sources, refused):
    for bundle, value in (("vae", "weights"), ("ccella_ldm", "model_file"), ("classifier", "model_file")):
        other = "classifier.safetensors" if bundle == "vae" else "vae.safetensors"
        with refused("another architecture|no weights of this network|no file of denoiser|not a file of denoiser"):
            collect(bundle, **{value: str(sources.root / other)})

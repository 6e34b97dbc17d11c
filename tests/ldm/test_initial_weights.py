"""A U-Net that was trained elsewhere gives ours its weights, as far as they fit, and the rest is told."""

import logging

import pytest
import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

import tiny
from scripts.common.problems import UserError
from scripts.ldm.initial_weights import load_pretrained_unet, start_network
from scripts.networks.ccella import CCELLA
from scripts.networks.weights import LatentScale, save_weights


def make(variant="CCELLA", seed=0):
    torch.manual_seed(seed)
    return CCELLA(variant, **tiny.CCELLA)


def maisi_unet(**options):
    """A U-Net as NVIDIA publishes it: no text, no class vector, body regions in the time embedding."""
    torch.manual_seed(5)
    regions = {"include_top_region_index_input": True, "include_bottom_region_index_input": True}
    network = DiffusionModelUNetMaisi(
        **{"spatial_dims": 3, "in_channels": 4, "out_channels": 4, "include_spacing_input": True, **tiny.UNET}
        | regions
        | options
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def test_a_published_maisi_unet_loads_and_behaves_the_same(tmp_path, caplog):
    theirs, network = maisi_unet(), make("RADMAISI").eval()
    torch.save({"unet_state_dict": theirs.state_dict(), "scale_factor": 1.0, "epoch": 1}, tmp_path / "maisi.pt")
    with caplog.at_level(logging.INFO):
        skipped, missing = load_pretrained_unet(network, tmp_path / "maisi.pt")
    assert {name.split(".")[0] for name in skipped} == {"top_region_index_layer", "bottom_region_index_layer"}
    assert {name.split(".")[0] for name in missing} == {"pirads_layer"}
    assert "top_region_index_layer.0.weight" in caplog.text
    assert "pirads_layer.0.weight" in caplog.text

    # Without what the region layers say, their network is ours, whatever the class.
    for layer in (theirs.top_region_index_layer, theirs.bottom_region_index_layer):
        torch.nn.init.zeros_(layer[2].weight)
        torch.nn.init.zeros_(layer[2].bias)
    x, time = torch.randn(2, 4, 8, 8, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])
    spacing, region = torch.tensor([[0.5, 0.5, 0.5625]] * 2), torch.eye(4)[:2]
    with torch.no_grad():
        ours = network(x, time, spacing_tensor=spacing, pirads=torch.eye(2)).noise_pred
        expected = theirs(
            x, time, top_region_index_tensor=region, bottom_region_index_tensor=region, spacing_tensor=100 * spacing
        )
    torch.testing.assert_close(ours, expected)


def test_a_maisi_unet_gives_a_network_with_text_all_but_its_attention(tmp_path):
    torch.save({"unet_state_dict": maisi_unet().state_dict()}, tmp_path / "maisi.pt")
    network = make()
    _, missing = load_pretrained_unet(network, tmp_path / "maisi.pt", freeze=True)
    assert all("pirads_layer" in name or "attention" in name for name in missing)
    learning = {name for name, parameter in network.unet.named_parameters() if parameter.requires_grad}
    assert learning == set(missing) | {n for n in network.unet.state_dict() if n.endswith("time_emb_proj.weight")}
    assert all(parameter.requires_grad for parameter in network.ella.parameters())


def test_without_a_class_nothing_that_was_copied_learns(tmp_path):
    torch.save({"unet_state_dict": maisi_unet().state_dict()}, tmp_path / "maisi.pt")
    network = make("ELLAMAISI")
    _, missing = load_pretrained_unet(network, tmp_path / "maisi.pt", freeze=True)
    learning = {name for name, parameter in network.unet.named_parameters() if parameter.requires_grad}
    assert learning == set(missing)
    assert all("attention" in name for name in missing)


@pytest.mark.parametrize("variant", ["CCELLA", "ELLAMAISI"])
def test_a_unet_of_another_width_is_refused(variant, tmp_path):
    torch.save({"unet_state_dict": maisi_unet(num_channels=[16, 32]).state_dict()}, tmp_path / "maisi.pt")
    with pytest.raises(UserError, match="is a U-Net of another size"):
        load_pretrained_unet(make(variant), tmp_path / "maisi.pt")


@pytest.mark.parametrize("freeze", [False, True])
def test_a_unet_of_one_image_begins_as_one_of_three_sequences(tmp_path, freeze):
    theirs = maisi_unet(include_top_region_index_input=False, include_bottom_region_index_input=False)
    torch.save({"unet_state_dict": theirs.state_dict()}, tmp_path / "maisi.pt")
    network = CCELLA("RADMAISI", **tiny.CCELLA | {"in_channels": 12, "out_channels": 12}).eval()
    load_pretrained_unet(network, tmp_path / "maisi.pt", freeze=freeze)
    x, time, spacing = torch.randn(1, 4, 8, 8, 4), torch.tensor([500.0]), torch.tensor([[0.5, 0.5, 0.5625]])
    with torch.no_grad():
        ours = network(torch.cat([x] * 3, 1), time, spacing_tensor=spacing, pirads=torch.eye(2)[:1]).noise_pred
        expected = theirs(x, time, spacing_tensor=100 * spacing)
    torch.testing.assert_close(ours, torch.cat([expected] * 3, 1), rtol=1e-4, atol=1e-4)
    learning = {name for name, parameter in network.unet.named_parameters() if parameter.requires_grad}
    assert {"conv_in.conv.weight", "out.2.conv.weight"} <= learning
    assert ("down_blocks.0.resnets.0.conv1.conv.weight" in learning) == (not freeze)


def test_nothing_to_freeze_is_refused():
    with pytest.raises(UserError, match="no pretrained_unet to freeze"):
        start_network(make(), torch.device("cpu"), freeze_unet=True)


def test_own_weights_serve_as_a_pretrained_unet(tmp_path):
    source, network, path = make("DECOUPLED"), make("CCELLA", seed=1), tmp_path / "model.safetensors"
    save_weights(path, source.state_dict(), config=source.config, scale=LatentScale((1.0,)))
    assert load_pretrained_unet(network, path) == ([], [])
    torch.testing.assert_close(network.unet.state_dict(), source.unet.state_dict(), rtol=0, atol=0)


def test_a_missing_file_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match=r"unet\.pt are missing; .*NVIDIA.*licence"):
        load_pretrained_unet(make(), tmp_path / "unet.pt")


def test_a_unet_of_another_size_is_refused(tmp_path):
    torch.save({"unet_state_dict": maisi_unet(in_channels=8).state_dict()}, tmp_path / "maisi.pt")
    with pytest.raises(UserError, match=r"conv_in.*\(8, 8, 3, 3, 3\) in the file and \(8, 4, 3, 3, 3\)"):
        load_pretrained_unet(make(), tmp_path / "maisi.pt")


def test_initial_weights_are_taken_whole_and_what_they_were_trained_with_is_compared(tmp_path, caplog):
    source, path, cpu = make(), tmp_path / "model.safetensors", torch.device("cpu")
    made_by = {"objective": "rflow", "vae_fingerprint": "one", "encoder_fingerprint": "t5"}
    save_weights(path, source.state_dict(), config=source.config, scale=LatentScale((1.0,)), **made_by)
    same = made_by | {"prediction": "velocity"}
    network = start_network(make(seed=1), cpu, initial_weights=path, training=same, scale=LatentScale((1.0,)))
    torch.testing.assert_close(network.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert not caplog.text
    other = {"objective": "ddpm", "vae_fingerprint": "another", "encoder_fingerprint": None}
    start_network(make(seed=1), cpu, initial_weights=path, training=other, scale=LatentScale((2.0,)))
    assert "trained with objective rflow, here it is ddpm" in caplog.text
    assert "trained with vae_fingerprint one, here it is another" in caplog.text
    assert "encoder_fingerprint" not in caplog.text
    assert f"normalised otherwise than here; --latent_scale {path} keeps it" in caplog.text

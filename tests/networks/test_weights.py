"""Weights go out and come back the same, and a file that does not fit says why."""

import json
from itertools import pairwise

import pytest
import torch
from monai.data import MetaTensor
from safetensors import safe_open
from safetensors.torch import save_file

import tiny
from scripts.common.problems import UserError
from scripts.networks.ccella import CCELLA
from scripts.networks.variants import VARIANTS
from scripts.networks.weights import LatentScale, load_weights, read_header, save_weights


def make(variant="CCELLA", seed=0, **options):
    torch.manual_seed(seed)
    return CCELLA(variant, **{**tiny.CCELLA, **options})


def save(path, network, **changes):
    save_weights(path, network.state_dict(), **{"config": network.config, "scale": LatentScale((1.25,)), **changes})
    return path


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_and_what_is_said_beside_them_come_back(tmp_path, variant):
    network, other = make(variant), make(variant, seed=1)
    path = save(tmp_path / "model.safetensors", network, objective="rflow", spacing=[1.25, 1.25, 1.875])
    header = load_weights(path, other)
    assert same(network.state_dict(), other.state_dict())
    assert header.scale == LatentScale((1.25,))
    assert header.objective == "rflow"
    assert header.config == json.loads(json.dumps(network.config))
    assert header.meta["spacing"] == [1.25, 1.25, 1.875]
    assert read_header(path) == header
    assert CCELLA(**header.config).config == network.config


def test_the_file_is_plain_safetensors_with_json_metadata(tmp_path):
    path = save(tmp_path / "model.safetensors", make())
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(make().state_dict())
    assert json.loads(metadata["scale_factor"]) == 1.25
    assert "latent_mean" not in metadata  # as files of before there were means
    assert json.loads(metadata["config"])["variant"] == "CCELLA"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_authors_checkpoints_load(tmp_path, variant):
    network, other = make(variant), make(variant, seed=1)
    state = network.state_dict()
    if not VARIANTS[variant].adapter:
        state = {name.removeprefix("unet."): tensor for name, tensor in state.items()}
    optimizer = torch.optim.AdamW(network.parameters())
    torch.save(
        {
            "unet_state_dict": state,
            "scale_factor": torch.tensor(0.75),
            "epoch": 3,
            "num_train_timesteps": 1000,
            "optimizer": optimizer.state_dict(),
            "scheduler": torch.optim.lr_scheduler.PolynomialLR(optimizer).state_dict(),
        },
        tmp_path / "authors.pt",
    )
    header = load_weights(tmp_path / "authors.pt", other)
    assert read_header(tmp_path / "authors.pt") == header
    assert header.scale == LatentScale((0.75,))
    assert header.objective == "ddpm"
    assert header.config["variant"] == ("CCELLA" if variant == "L1ONLY" else variant)
    shown = {name: value for name, value in header.config.items() if name != "variant"}
    assert shown == {"in_channels": 4, "num_channels": [8, 16]} | (
        {"input_dim": 12} if VARIANTS[variant].adapter else {}
    )
    assert same(network.state_dict(), other.state_dict())


def test_a_scale_factor_that_carries_an_image_header_loads(tmp_path):
    network = make("MAISI")
    latents = MetaTensor(
        torch.tensor([1.0, 3.0]), meta={"pixdim": torch.ones(3).numpy(), "units": torch.ones(1).numpy()[0]}
    )
    torch.save({"unet_state_dict": network.state_dict(), "scale_factor": 1 / latents.std()}, tmp_path / "a.pt")
    assert load_weights(tmp_path / "a.pt", make("MAISI", seed=1)).scale.factor == pytest.approx((2**-0.5,))


@pytest.mark.parametrize(
    "stored",
    [
        tuple(torch.tensor(f) for f in (0.75, 1.5, 3.0)),
        tuple(MetaTensor(torch.tensor(f)) for f in (0.75, 1.5, 3.0)),
        [0.75, 1.5, 3.0],
        torch.tensor([0.75, 1.5, 3.0]),
        torch.tensor([[0.75], [1.5], [3.0]]).numpy(),
    ],
    ids=["tuple", "MetaTensors", "list", "tensor", "array"],
)
def test_a_checkpoint_of_three_sequences_holds_a_scale_factor_for_each(tmp_path, stored):
    """CCELLA++: 12 latent channels; read strictly, and written and read again as ours."""
    sizes = {"in_channels": 12, "out_channels": 12}
    network, other = make(**sizes), make(seed=1, **sizes)
    torch.save({"unet_state_dict": network.state_dict(), "scale_factor": stored, "epoch": 1}, tmp_path / "bpmri.pt")
    header = load_weights(tmp_path / "bpmri.pt", other)
    assert header.scale == LatentScale((0.75, 1.5, 3.0))
    assert header.config["in_channels"] == 12
    assert same(network.state_dict(), other.state_dict())
    path = save(tmp_path / "model.safetensors", network, scale=header.scale)
    assert read_header(path).scale == header.scale


@pytest.mark.parametrize(("stored", "built"), [(4, 12), (12, 4)])
def test_weights_of_fewer_or_more_sequences_are_told(tmp_path, stored, built):
    path = save(tmp_path / "model.safetensors", make(in_channels=stored, out_channels=stored))
    with pytest.raises(UserError, match=f"makes latents of {stored} channels, but the network those of {built}"):
        load_weights(path, make(in_channels=built, out_channels=built))


@pytest.mark.parametrize(("stored", "built"), pairwise([*VARIANTS, "MAISI", "CCELLA"]))
def test_a_file_of_another_variant_is_named(tmp_path, stored, built):
    path = save(tmp_path / "model.safetensors", make(stored))
    network = make(built, seed=1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if {stored, built} == {"L1ONLY", "CCELLA"}:  # they differ in their loss alone
        assert load_weights(path, network).scale == LatentScale((1.25,))
        return
    looks = "CCELLA" if stored == "L1ONLY" else stored
    with pytest.raises(UserError, match=rf"looks like variant {looks}, .* is {built}; .*/{looks.lower()}\.yaml"):
        load_weights(path, network)
    assert same(before, network.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_dim": 10}, r"embeddings 10 wide, but the network takes 12"),
        ({"layers": 3}, r"another depth.*cascade_blocks\.2.*in the file"),
        ({"layers": 1}, r"another depth.*cascade_blocks\.1.*in the network"),
        ({"num_channels": [8, 24]}, r"another size.*24"),
        ({"heads": 4}, r"trained with heads 4, but the network has 2"),
        ({"num_head_channels": [0, 4]}, r"trained with num_head_channels \[0, 4\], but"),
    ],
)
def test_other_sizes_are_told(tmp_path, change, message):
    stored = make(**change)
    path = save(tmp_path / "model.safetensors", stored)
    with pytest.raises(UserError, match=message):
        load_weights(path, make())


def test_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.safetensors are missing; train them"):
        load_weights(tmp_path / "nothing.safetensors", make())


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("keep", [0, 100, -1000])
def test_a_file_cut_short_is_told(tmp_path, name, keep):
    network, path = make(), tmp_path / name
    if path.suffix == ".pt":
        torch.save({"unet_state_dict": network.state_dict(), "scale_factor": 1.0}, path)
    else:
        save(path, network)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cannot be read.*cut short"):
        load_weights(path, network)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"unet_state_dict": {}, "scale_factor": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(UserError, match="refused"):
        load_weights(tmp_path / "harmful.pt", make())
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("value", [None, 0.0, -1.0, float("nan"), (), (1.0, 0.0, 1.0), (1.0, None)])
def test_without_a_usable_scale_factor_nothing_is_loaded(tmp_path, value):
    network = make()
    checkpoint = {"unet_state_dict": make(seed=1).state_dict(), "scale_factor": value}
    torch.save(checkpoint, tmp_path / "model.pt")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match=r"scale.factor"):
        load_weights(tmp_path / "model.pt", network)
    assert same(before, network.state_dict())


def test_files_of_other_kinds_are_told(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "vae.pt")
    with pytest.raises(UserError, match="no unet_state_dict"):
        load_weights(tmp_path / "vae.pt", make())
    save_file({"a": torch.ones(1)}, tmp_path / "vae.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not a file of denoiser weights"):
        read_header(tmp_path / "vae.safetensors")

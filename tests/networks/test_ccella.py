"""The denoiser in its nine variants, on tiny sizes, and its parameter counts at the reference size."""

import copy

import pytest
import torch
from monai.bundle import verify_net_in_out

import tiny
from scripts.engine.precision import PRECISIONS
from scripts.networks.ccella import CCELLA, AdapterOutput, LatentDenoiser
from scripts.networks.variants import VARIANTS, find_variant, guess_variant

SIZES = tiny.CCELLA | {"layers": 3}
WITH_ADAPTER = [name for name, variant in VARIANTS.items() if variant.adapter]


def make(variant="CCELLA", seed=0, **options):
    """A tiny network whose zero-initialised layers are filled, so that every input can be seen in the output."""
    torch.manual_seed(seed)
    network = CCELLA(variant, **{**SIZES, **options}).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return network


def make_inputs(batch=2, tokens=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, 4, 8, 8, 4, generator=generator),
        "timesteps": torch.linspace(3, 900, batch),
        "text_encoding": torch.randn(batch, tokens, 12, generator=generator),
        "spacing_tensor": torch.tensor([[0.5, 0.5, 0.5625]] * batch),
        "pirads": torch.eye(2)[torch.arange(batch) % 2],
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_predicts_noise_and_where_it_has_a_head_a_class(variant):
    inputs = make_inputs()
    with torch.no_grad():
        noise_pred, class_logits = make(variant)(**inputs)
    assert noise_pred.shape == inputs["x"].shape
    if VARIANTS[variant].heads is None:
        assert class_logits is None
    else:
        assert class_logits.shape == (2, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_noise_alone_gives_every_parameter_a_gradient(variant):
    network = make(variant).train()
    network(**make_inputs()).noise_pred.square().mean().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []
    heads = [p.grad.abs().sum() for n, p in network.named_parameters() if "classifier" in n or "cascade" in n]
    assert all(gradient > 0 for gradient in heads)
    assert bool(heads) == (VARIANTS[variant].heads is not None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_adapter_and_unet_apart_give_what_they_give_together(variant):
    network, inputs = make(variant), make_inputs()
    with torch.no_grad():
        together = network(**inputs)
        condition = network.condition(inputs["text_encoding"], inputs["timesteps"])
        vector = network.class_vector(condition.class_logits, inputs["pirads"])
        apart = network.denoise(inputs["x"], inputs["timesteps"], condition.context, vector, inputs["spacing_tensor"])
    assert torch.equal(apart, together.noise_pred)


@pytest.mark.parametrize("variant", WITH_ADAPTER)
def test_one_report_at_many_timesteps_is_one_batch(variant):
    network = make(variant)
    text, mask = make_inputs(1)["text_encoding"], torch.tensor([[True, True, False, True, False]])
    steps = torch.tensor([0.0, 250.5, 999.0])
    with torch.no_grad():
        batch = network.condition(text, steps, mask)
        for index, step in enumerate(steps):
            single = network.condition(text, step[None], mask)
            torch.testing.assert_close(batch.context[index], single.context[0])
            if single.class_logits is not None:
                torch.testing.assert_close(batch.class_logits[index], single.class_logits[0])


def test_many_reports_at_one_timestep_are_one_batch():
    network, text = make(), make_inputs(3)["text_encoding"]
    with torch.no_grad():
        shared = network.condition(text, torch.tensor([7.0]))
        spelled_out = network.condition(text, torch.tensor([7.0] * 3))
    torch.testing.assert_close(shared, spelled_out)


def test_masked_tokens_are_as_if_absent_and_without_a_mask_all_count():
    network, inputs = make(), make_inputs(1)
    text, step = inputs["text_encoding"], inputs["timesteps"]
    mask = torch.tensor([[True, True, True, False, False]])
    with torch.no_grad():
        masked = network.condition(text, step, mask)
        cut = network.condition(text[:, :3], step)
        whole = network.condition(text, step)
        all_real = network.condition(text, step, torch.ones_like(mask))
    torch.testing.assert_close(masked, cut)
    torch.testing.assert_close(whole, all_real)
    assert not torch.allclose(whole.context, cut.context)


@pytest.mark.parametrize("variant", ["CCELLA", "DECOUPLED", "RADMAISI"])
def test_class_keep_false_hides_the_class_of_that_case_only(variant):
    network, inputs = make(variant), make_inputs()
    keep = torch.tensor([True, False])
    with torch.no_grad():
        kept, dropped = network(**inputs), network(**inputs, class_keep=keep)
        other = network(**{**inputs, "pirads": inputs["pirads"].flip(1)}, class_keep=keep)
    torch.testing.assert_close(dropped.noise_pred[0], kept.noise_pred[0])
    assert not torch.allclose(dropped.noise_pred[1], kept.noise_pred[1])
    torch.testing.assert_close(other.noise_pred[1], dropped.noise_pred[1])


def test_class_vector_is_the_scaled_probability_or_the_scaled_one_hot():
    logits, pirads = torch.tensor([[0.0, torch.log(torch.tensor(3.0))]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(make("CCELLA").class_vector(logits, pirads), torch.tensor([[25.0, 75.0]]))
    torch.testing.assert_close(make("DECOUPLED").class_vector(None, pirads), torch.tensor([[0.0, 100.0]]))
    assert make("ELLAMAISI").class_vector(None, pirads) is None


@pytest.mark.parametrize(("variant", "reads"), [("MAISI", set()), ("RADMAISI", {"pirads"})])
def test_variants_without_an_adapter_ignore_the_report(variant, reads):
    network, inputs = make(variant), make_inputs()
    assert network.condition(inputs["text_encoding"], inputs["timesteps"]) == AdapterOutput(None, None)
    with torch.no_grad():
        before = network(**inputs).noise_pred
        text = network(**{**inputs, "text_encoding": None}).noise_pred
        flipped = network(**{**inputs, "pirads": inputs["pirads"].flip(1)}).noise_pred
    assert torch.equal(before, text)
    assert torch.equal(before, flipped) == ("pirads" not in reads)


def test_spacing_is_in_mm_and_changes_the_prediction():
    network, inputs = make(), make_inputs()
    with torch.no_grad():
        fine = network(**inputs).noise_pred
        coarse = network(**{**inputs, "spacing_tensor": 2 * inputs["spacing_tensor"]}).noise_pred
    assert not torch.allclose(fine, coarse)


@pytest.mark.parametrize("dtype", PRECISIONS.values(), ids=PRECISIONS)
def test_half_precision_embeddings_are_taken_as_stored(dtype):
    """Bit for bit as if they came in float32."""
    network, inputs = make(), make_inputs()
    stored = inputs["text_encoding"].half()
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        half = network.condition(stored, inputs["timesteps"])
        full = network.condition(stored.float(), inputs["timesteps"])
    torch.testing.assert_close(half, full, rtol=0, atol=0)


def test_gradient_checkpointing_changes_neither_result_nor_gradients_nor_names():
    plain, saving, inputs = make(), make(gradient_checkpointing=True), make_inputs()
    assert plain.state_dict().keys() == saving.state_dict().keys()
    saving.load_state_dict(plain.state_dict())
    gradients = []
    for network in (plain, copy.deepcopy(saving)):
        network.train()(**inputs).noise_pred.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0])
    assert all(parameter.grad is None for parameter in saving.parameters())


def test_config_makes_the_same_network_again():
    network = make("SHARED")
    again = CCELLA(**network.config)
    again.load_state_dict(network.state_dict(), strict=True)
    assert again.config == network.config


def test_the_latent_denoiser_shows_bundle_tools_one_tensor_in_and_one_out():
    network, x = make(), make_inputs()["x"]
    with torch.no_grad():
        noise = LatentDenoiser(network)(x)
        expected = network(
            x, torch.zeros(2), torch.zeros(2, 1, 12), torch.tensor([[0.5, 0.5, 0.5625]] * 2), torch.eye(2)[[0, 0]]
        )
    assert torch.equal(noise, expected.noise_pred)


def test_metadata_that_do_not_fit_the_network_are_told(tmp_path):
    config = {
        "network_def": {"_target_": "scripts.networks.ccella.CCELLA", **SIZES},
        "latent_denoiser": {"_target_": "scripts.networks.ccella.LatentDenoiser", "network": "@network_def"},
    }
    image = {"num_channels": 4, "spatial_shape": [8, 8, 4], "dtype": "float32"}
    meta = {"network_data_format": {"inputs": {"image": image}, "outputs": {"pred": image}}}
    arguments = {"net_id": "latent_denoiser", "config_file": config, "meta_file": meta, "device": "cpu"}
    verify_net_in_out(**arguments)
    image["num_channels"] = 5
    with pytest.raises((ValueError, RuntimeError)):
        verify_net_in_out(**arguments)


def test_a_call_without_a_timestep_is_refused():
    with pytest.raises(TypeError, match="timesteps"):
        make()(make_inputs()["x"])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"text_encoding": None}, "none were given"), ({"text_encoding": torch.zeros(2, 5, 7)}, r"\(B, T, 12\)")],
)
def test_missing_report_and_wrong_width_are_told(change, message):
    with pytest.raises(ValueError, match=message):
        make()(**{**make_inputs(), **change})


def test_a_variant_that_takes_the_class_asks_for_it():
    with pytest.raises(ValueError, match="give pirads"):
        make("DECOUPLED")(**{**make_inputs(), "pirads": None})


def test_unknown_variant_names_the_nine():
    with pytest.raises(ValueError, match=r"CELLA.*MAISI.*CCELLA"):
        find_variant("CELLA")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_recognised_by_its_names(variant):
    names = list(make(variant).state_dict())
    expected = "CCELLA" if variant == "L1ONLY" else variant
    assert guess_variant(names) == expected
    if not VARIANTS[variant].adapter:
        assert guess_variant([name.removeprefix("unet.") for name in names]) == expected


def test_reference_size_has_the_published_parameter_counts():
    with torch.device("meta"):
        network = CCELLA()
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in network.named_modules()}
    assert round(count["unet"] / 1e6) == 205
    assert round(count["ella"] / 1e6, 1) == 370.5
    assert round(count["ella.connector.cascade_blocks"] / 1e6) == 302
    assert network.classifier.weight.shape == (2, 12)

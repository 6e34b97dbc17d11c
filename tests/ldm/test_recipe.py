"""Options against each other and against what the weights say, before any report is read or network built."""

from __future__ import annotations

import pytest
import torch

import tiny
from generating import infer, make_authors_weights, make_weights, recipe_options, root_cause
from scripts.common.identity import file_identity
from scripts.common.problems import UserError
from scripts.data.plan import Plan, write_plan
from scripts.ldm.recipe import DECISIVE, make_recipe
from scripts.vae.network import maisi_vae, save_vae


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps  is 0 -> give a whole number from 1 to 1000"),
        ({"scheduler": "rflow"}, "does not fit weights trained with the ddpm objective"),
        ({"size": [32, 32, 20]}, "three multiples of 8"),
        ({"spacing": [1, 1, -1]}, "three positive numbers"),
        ({"channels": ["axt2", "adc"]}, "latents of 1"),
        ({"amp": "int8"}, "amp"),
        ({"replicates": 0}, "replicates"),
        ({"model_file": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"vae_file": "nowhere.pt"}, "nowhere.pt"),
        ({"splits": ["validation"]}, "validation_merged.json"),
        ({"report": b"x"}, "text_encoder is not set"),
        ({"report": b"x", "positive": "perhaps"}, "positive"),
        ({"report": b"x", "case_name": "../x"}, "case_name"),
        ({"guidance_rescale": 2}, "guidance_rescale  is 2 -> give a number from 0 to 1"),
        ({"guidance_model": "nowhere.pt"}, "guidance_model  is 'nowhere.pt' -> give a file that is there, or null"),
        ({"guidance_report": "much"}, "guidance_report  is 'much' -> give a number of at least 0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(place, tmp_path, changes, message):
    with pytest.raises((RuntimeError, UserError)) as error:
        infer(place, tmp_path / "out", **changes)
    assert message in str(root_cause(error.value))
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_not_the_weights_is_told_before_any_report_is_embedded(place, tmp_path):
    make_weights(tmp_path / "model.safetensors", "LAST", **place.meta)
    given = {"report": b"x", "text_encoder": "nowhere", "model_file": str(tmp_path / "model.safetensors")}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given)
    message = str(root_cause(error.value))
    assert "has variant CCELLA, but model_file was trained with LAST -> list configs/variants/last.yaml" in message
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given, variant="LAST", **{"network_def#num_channels": [8, 24]})
    assert "has num_channels [8, 24], but model_file was trained with [8, 16]" in str(root_cause(error.value))


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        ({"variant": "LAST"}, {}, "trained with LAST -> list configs/variants/last.yaml"),
        ({"variant": "MAISI"}, {}, "trained with MAISI -> list configs/variants/maisi.yaml"),
        (
            {},
            {"network_def#num_channels": [8, 24]},
            "has num_channels [8, 24], but model_file was trained with [8, 16]",
        ),
        ({}, {"network_def#input_dim": 12}, "has input_dim 12, but model_file was trained with 16"),
        ({"sequences": 2}, {}, "channels  are ['axt2'], but the network makes latents of 2 sequences"),
        ({"scale_factor": None}, {}, "holds no scale_factor"),
        ({"scale_factor": (1.0, 2.0)}, {}, "2 scale factors and latents of 4 channels"),
    ],
)
def test_a_network_that_is_not_the_authors_checkpoint_is_told_as_early(place, tmp_path, weights, changes, message):
    """Before the text encoder is loaded, which is not there, and the network is built, which cannot be."""
    make_authors_weights(tmp_path / "authors.pt", **weights)
    given = {"report": b"x", "text_encoder": "nowhere", "model_file": str(tmp_path / "authors.pt"), **changes}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given, **{"network_def#_target_": "scripts.nothing.CannotBeBuilt"})
    assert message in str(root_cause(error.value))


@pytest.mark.parametrize(
    ("trained", "asked"),
    [
        (["axt2"], ["axt2", "b1600", "adc"]),
        (["axt2", "b1600", "adc"], ["axt2"]),
        (["axt2"], ["adc"]),
        (["axt2", "adc"], ["adc", "axt2"]),
    ],
)
def test_sequences_that_the_weights_do_not_make_are_told(place, tmp_path, trained, asked):
    path = tmp_path / "model.safetensors"
    make_weights(path, sequences=len(trained), **place.meta | {"channels": trained})
    given = recipe_options(place, path) | {"guidance_report": 1}
    with pytest.raises(UserError) as error:
        make_recipe(**given | {"channels": asked})
    assert f"channels  are {asked}, but the network makes {trained}" in str(error.value)
    assert make_recipe(**given | {"channels": trained}).sequences == tuple(trained)


def test_answer_and_spacing_of_the_steps_are_those_of_weights_and_options(place, tmp_path):
    path = tmp_path / "model.safetensors"
    make_weights(path, **place.meta | {"prediction": "velocity"})
    given = recipe_options(place, path) | {"steps": 20, "guidance_report": 1}
    even, recipe = make_recipe(**given), make_recipe(**given | {"step_spacing": "log_snr"})
    assert even.schedule.prediction == recipe.schedule.prediction == "velocity"
    assert (even.settings["step_spacing"], recipe.settings["step_spacing"]) == ("uniform", "log_snr")
    assert recipe.schedule.timesteps[1] != even.schedule.timesteps[1]
    make_weights(path, **place.meta)
    older = make_recipe(**given)
    assert older.schedule.prediction == "noise"  # of DDPM
    assert older.settings["model"] != even.settings["model"]


def test_the_plan_tells_the_size_where_the_weights_do_not(place, tmp_path):
    path = tmp_path / "model.pt"
    make_authors_weights(path)
    write_plan(tmp_path, Plan((64, 64, 32), (1.0, 1.0, 2.0), ("axt2",)))
    given = recipe_options(place, path) | {"guidance_report": 1, "dataset_dir": tmp_path}
    recipe = make_recipe(**given)
    assert (recipe.size, recipe.spacing) == ((64, 64, 32), (1.0, 1.0, 2.0))
    assert make_recipe(**given | {"size": [32, 32, 32]}).size == (32, 32, 32)
    assert make_recipe(**given | {"dataset_dir": tmp_path / "none"}).size == (256, 256, 128)
    make_weights(tmp_path / "model.safetensors", **place.meta)
    trained = make_recipe(**given | {"model_file": tmp_path / "model.safetensors"})
    assert trained.size == tuple(4 * n for n in place.meta["latent_shape"][-3:])


def test_another_vae_is_refused(place, tmp_path):
    torch.manual_seed(1)
    save_vae(maisi_vae(**tiny.VAE), tmp_path / "other.safetensors")
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", vae_file=str(tmp_path / "other.safetensors"))
    assert "trained on latents of VAE" in str(root_cause(error.value))


def test_guidance_without_dropout_and_a_far_view_are_warned_about(place, tmp_path, capsys):
    never = {"trained_with_dropout": {"class": 0, "both": 0}}
    make_weights(tmp_path / "model.safetensors", **place.meta | never)
    path = str(tmp_path / "model.safetensors")
    infer(place, tmp_path / "out", model_file=path, splits=["test"], spacing=[0.5, 0.5, 0.5], steps=1)
    printed = capsys.readouterr().out
    assert "never seen a case without report and class" in printed
    assert "16×16×8 mm" in printed
    assert "40×40×30 mm" in printed


def test_the_authors_weights_were_trained_on_the_reference_view_and_without_dropout(place, tmp_path, caplog):
    make_authors_weights(tmp_path / "authors.pt")
    given = recipe_options(place, tmp_path / "authors.pt") | {"guidance_report": 3, "guidance_class": 3}
    make_recipe(**given | {"size": [64, 64, 32], "spacing": [1.25, 1.25, 1.875]})
    assert "80×80×60 mm, but the weights were trained on 128×128×72 mm" in caplog.text
    assert "never seen a case without report and class" in caplog.text


@pytest.mark.parametrize(
    ("variant", "trained", "weights", "lacks"),
    [
        ("CCELLA", {"report": 0.1, "class": 0.1}, (3, 3), "without report and class,"),
        ("CCELLA", {"both": 0.1}, (3, 3), None),
        ("CCELLA", {"both": 0.1}, (3, 2), "without class,"),
        ("CCELLA", {}, (3, 2), "without class, nor without report and class,"),
        ("CCELLA", {}, (1, 1), None),
        ("ELLAMAISI", {"report": 0.1}, (3, 1), None),
        ("ELLAMAISI", {"both": 0.1}, (3, 1), None),
        ("ELLAMAISI", {"class": 0.1}, (3, 1), "without report and class,"),
        ("DECOUPLED", {"both": 0.1}, (1, 3), "without class,"),
        ("DECOUPLED", {"class": 0.1}, (1, 3), None),
        ("RADMAISI", {"both": 0.1}, (1, 3), None),
        ("RADMAISI", {"report": 0.1}, (1, 3), "without report and class,"),
        ("RADMAISI", {"class": 0.1}, (1, 3), None),
    ],
)
def test_guidance_warns_of_the_dropout_that_it_misses(place, tmp_path, caplog, variant, trained, weights, lacks):
    make_weights(tmp_path / "model.safetensors", variant, **place.meta | {"trained_with_dropout": trained})
    make_recipe(
        **recipe_options(place, tmp_path / "model.safetensors"), guidance_report=weights[0], guidance_class=weights[1]
    )
    assert caplog.text == "" if lacks is None else f"never seen a case {lacks}" in caplog.text


@pytest.mark.parametrize(
    ("variant", "weights", "told"),
    [
        ("ELLAMAISI", {"guidance_report": 3}, ""),
        ("RADMAISI", {"guidance_report": 3}, ""),
        ("MAISI", {"guidance_report": 3}, "reads no report: guidance_report has no effect"),
        ("ELLAMAISI", {"guidance_report": 3, "guidance_class": 3}, "reads no class: guidance_class has no effect"),
        ("RADMAISI", {"guidance_report": 3, "guidance_class": 1}, "reads no report: guidance_report has no effect"),
    ],
)
def test_the_class_has_the_reports_weight_unless_it_is_given_one(place, tmp_path, caplog, variant, weights, told):
    trained = {"trained_with_dropout": {"class": 0.1, "both": 0.1}}
    make_weights(tmp_path / "model.safetensors", variant, **place.meta | trained)
    recipe = make_recipe(**recipe_options(place, tmp_path / "model.safetensors"), **weights)
    assert recipe.guidance.class_ == weights.get("guidance_class", 3)
    assert caplog.text == "" if told == "" else told in caplog.text


def test_a_worse_network_of_another_training_is_told(place, tmp_path):
    own, other = tmp_path / "model.safetensors", tmp_path / "worse.safetensors"
    make_weights(own, **place.meta)
    make_weights(other, sequences=2, **place.meta | {"objective": "rflow", "vae_fingerprint": "another"})
    with pytest.raises(UserError) as error:
        make_recipe(**recipe_options(place, own), guidance_report=2, guidance_model=other)
    message = " ".join(str(error.value).split())
    for words in (
        "has objective rflow, model_file ddpm",
        "has vae_fingerprint another",
        "has in_channels 8, model_file 4",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("variant", "changes", "words"),
    [
        ("CCELLA", {"prediction": "velocity"}, "has prediction velocity, model_file noise"),  # which is not named there
        ("LAST", {}, "has variant LAST, model_file CCELLA"),
        ("L1ONLY", {"prediction": "noise"}, None),
    ],
)
def test_a_worse_network_answers_with_the_same_and_reads_the_same(place, tmp_path, variant, changes, words):
    own, other = tmp_path / "model.safetensors", tmp_path / "worse.safetensors"
    make_weights(own, **place.meta)
    make_weights(other, variant, **place.meta | changes)
    given = recipe_options(place, own) | {"guidance_report": 2, "guidance_model": other}
    if words is None:
        assert make_recipe(**given).guidance.by_worse
        return
    with pytest.raises(UserError) as error:
        make_recipe(**given)
    assert words in " ".join(str(error.value).split())


def test_guidance_by_a_worse_network_needs_no_dropout_and_no_condition(place, tmp_path, caplog):
    """Its record names the weights, and that of guidance without it is as it was before there was any."""
    own, other = tmp_path / "model.safetensors", tmp_path / "worse.safetensors"
    for path, std in ((own, 1.0), (other, 2.0)):
        make_weights(path, "MAISI", **place.meta | {"trained_with_dropout": {}, "std": std})
    recipe = make_recipe(**recipe_options(place, own), guidance_report=2, guidance_model=other)
    assert caplog.text == ""
    assert recipe.settings["guidance"] == {
        "report": 2, "class": 2, "interval": [0, 1000], "model": file_identity(other, DECISIVE)
    }  # fmt: skip
    plain = make_recipe(**recipe_options(place, own), guidance_report=2, guidance_rescale=0.5)
    assert plain.settings["guidance"] == {"report": 2, "class": 2, "interval": [0, 1000], "rescale": 0.5}

"""Text encoders of every kind: what they give, what they refuse."""

from __future__ import annotations

import json
import logging
import pickle
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPConfig, CLIPModel, ViTConfig, ViTModel

from scripts.common.problems import UserError
from scripts.reports.coverage import Coverage, coverage, tell_coverage
from scripts.reports.encoder import ReportEncoder
from text_encoders import KINDS, LAYERS, WIDTH, make_text_encoder, wordpiece

SHORT = "left base PZ lesion , 12 mm"
LONG = "No restricted diffusion . " * 40 + SHORT
CHINESE, ARABIC = "前列腺左侧基底部病变 5 毫米", "آفة في الجانب الأيسر"
DECODERS = ("gpt2", "llama", "qwen")
SPELL_BYTES = ("gpt2", "llama", "qwen", "byt5")
NO_END = ("t5", "mt5", "byt5")
MARKS = {"gpt2": 0, "qwen": 0, "llama": 1, "t5": 1, "mt5": 1, "byt5": 1}  # around a text; of others 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {kind: make_text_encoder(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(folders, kind):
    return ReportEncoder(folders[kind], device="cpu")


def changed(folder, tmp_path, name, **values):
    """A copy of an encoder with other values in one of its JSON files."""
    copy = shutil.copytree(folder, tmp_path / "changed")
    path = copy / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return copy


# ---- what they give --------------------------------------------------------------------------------------------------


def test_width_and_length_follow_from_the_folder(encoder, kind):
    assert encoder.width == WIDTH
    assert encoder.max_tokens == (512 if kind in NO_END else 64)
    assert encoder.positions == (None if kind in NO_END else 64)


def test_a_long_report_keeps_its_end_and_the_marks(encoder, kind):
    short, long = encoder.tokens([SHORT, LONG * 3])
    marks = encoder.tokenizer("").input_ids
    assert len(marks) == MARKS.get(kind, 2)
    assert len(long) == encoder.max_tokens
    front = 0 if kind in NO_END else min(len(marks), 1)
    assert long[:front] == short[:front] == marks[:front]
    assert long[-len(short) + front + 2 :] == short[front + 2 :]  # the first word may be cut into other pieces


def test_the_other_side_is_kept_where_the_user_says_so(folders, kind):
    left, right = (ReportEncoder(folders[kind], 16, side, device="cpu") for side in ("left", "right"))
    text = SHORT + " . No restricted diffusion" * 40
    whole = right.tokenizer(text, verbose=False).input_ids
    (kept,) = right.tokens([text])
    behind = 0 if kind in DECODERS else 1
    assert kept[: 16 - behind] == whole[: 16 - behind]
    assert kept[16 - behind :] == whole[len(whole) - behind :]
    assert left.fingerprint != right.fingerprint


def test_a_result_does_not_depend_on_its_batch_mates(encoder):
    """Among them one so long that the padding is out of reach of every window."""
    alone = encoder.encode([SHORT])[0]
    together = encoder.encode([LONG, "right apex", SHORT, "", LONG + " x"])[2]
    torch.testing.assert_close(together, alone, rtol=0, atol=4e-3)
    assert alone.std() > 0.01


def test_padding_gives_every_position_and_does_not_change_the_tokens(encoder):
    (plain,), (padded,) = encoder.encode([SHORT]), encoder.encode([SHORT], padded=True)
    assert plain.shape == (len(encoder.tokens([SHORT])[0]), WIDTH)
    assert padded.shape == (encoder.max_tokens, WIDTH)
    torch.testing.assert_close(padded[: len(plain)], plain, rtol=0, atol=4e-3)


def test_any_text_has_a_state_even_the_empty_one(encoder, kind, caplog, capsys):
    texts = ["", "a\0b", "lone \ud800", CHINESE, ARABIC, "🩻" * 50, "</s> <pad> [SEP] <|endoftext|>", "x" * 20_000]
    states = encoder.encode(texts)
    assert all(1 <= len(state) <= encoder.max_tokens and state.isfinite().all() for state in states)
    assert len(states[0]) == max(MARKS.get(kind, 2), 1)
    assert caplog.text == ""
    assert capsys.readouterr() == ("", "")


def test_the_fingerprint_tells_encoders_apart_but_neither_runs_nor_precisions(folders, encoder, kind, tmp_path):
    """Not runs: the pooler that RadBERT's file lacks is drawn at random each time."""
    torch.manual_seed(1)
    assert ReportEncoder(folders[kind], device="cpu").fingerprint == encoder.fingerprint
    assert ReportEncoder(folders[kind], dtype="bf16", device="cpu").fingerprint == encoder.fingerprint
    other = ReportEncoder(make_text_encoder(tmp_path, kind, seed=1), device="cpu")
    assert other.fingerprint != encoder.fingerprint


def test_half_precision_reads_alike(folders, encoder, kind):
    half = ReportEncoder(folders[kind], dtype="bf16", device="cpu")
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    full, found = encoder.encode([SHORT])[0].float(), half.encode([SHORT])[0].float()
    assert (found - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("kind", ["t5", "t5gemma", "bart"])
def test_of_an_encoder_with_a_decoder_the_encoder_alone_is_taken(folders, kind):
    model = ReportEncoder(folders[kind], device="cpu").model
    assert not [name for name, _ in model.named_parameters() if "decoder" in name or "lm_head" in name]


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_gives_its_last_hidden_states_behind_the_final_norm(folders, kind):
    """Those that its own head reads; each token has seen those before it and none behind."""
    tokenizer, whole = (made.from_pretrained(folders[kind]) for made in (AutoTokenizer, AutoModelForCausalLM))
    encoder = ReportEncoder(folders[kind], device="cpu")
    words, longer = encoder.encode([SHORT, SHORT + " right apex"])
    with torch.no_grad():
        expected = whole(**tokenizer(SHORT, return_tensors="pt"), output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(words.float(), expected, rtol=0, atol=4e-3)
    torch.testing.assert_close(longer[: len(words)], words, rtol=0, atol=4e-3)


def test_settings_of_the_tokenizer_neither_cut_nor_pad(folders, tmp_path):
    """As sentence-transformers leaves them: 8 tokens, cut on the right, padded on the left."""
    tokenizer = json.loads((folders["bert"] / "tokenizer.json").read_text())
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    folder = changed(folders["bert"], tmp_path, "tokenizer.json", truncation=cut, padding=pad | {"pad_token": "[PAD]"})
    said = {"truncation_side": "right", "padding_side": "left", "model_max_length": 32}
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | said))
    assert "truncation" in tokenizer
    found, plain = (ReportEncoder(path, 32, device="cpu") for path in (folder, folders["bert"]))
    assert found.tokens([SHORT, LONG, "x"]) == plain.tokens([SHORT, LONG, "x"])
    assert ReportEncoder(folder, device="cpu").max_tokens == 32


@pytest.mark.parametrize(("stated", "limit"), [(10**30, 64), (1000, 64), (40, 40)])
def test_the_lower_of_both_limits_counts(tmp_path, stated, limit):
    assert (
        ReportEncoder(make_text_encoder(tmp_path, "roberta", model_max_length=stated), device="cpu").max_tokens == limit
    )


def test_no_more_tokens_than_one_pass_takes_without_being_asked(folders, tmp_path):
    folder = changed(folders["llama"], tmp_path, "config.json", max_position_embeddings=131072)
    assert ReportEncoder(folder, device="cpu").max_tokens == 4096
    assert ReportEncoder(folder, 10_000, device="cpu").max_tokens == 10_000


# ---- what is lost ----------------------------------------------------------------------------------------------------


def test_what_is_cut_and_unknown_is_counted(encoder, kind):
    texts = [SHORT, LONG * 3, SHORT + " . "]
    lengths = [len(encoder.tokenizer(text, verbose=False).input_ids) for text in texts]
    found = coverage(encoder, texts)
    assert found == Coverage(3, 1, sum(lengths) - 3 * MARKS.get(kind, 2), found.unknown)
    assert found.unknown == 0
    assert coverage(encoder, []) == Coverage(0, 0, 0, 0)
    foreign = coverage(encoder, [CHINESE, ARABIC])
    assert (foreign.unknown > foreign.tokens / 4) is (kind not in SPELL_BYTES)
    assert (foreign.unknown == 0) is (kind in SPELL_BYTES)


def test_more_than_a_few_per_cent_is_a_warning(folders, caplog):
    caplog.set_level(logging.INFO)
    encoder = ReportEncoder(folders["t5"], 24, device="cpu")
    tell_coverage(encoder, [SHORT] * 97 + [LONG] * 3)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "3 reports (3.0 %) are longer than 24 tokens" in caplog.text
    tell_coverage(encoder, [SHORT] * 95 + [LONG] * 5)
    assert (
        "5.0 % of the reports lose their beginning: they have more than 24 tokens. A higher max_tokens" in caplog.text
    )
    assert "unknown to the text encoder:" not in caplog.text
    tell_coverage(encoder, [CHINESE, ARABIC])
    assert "% of the tokens are unknown to the text encoder:" in caplog.text
    caplog.clear()
    tell_coverage(ReportEncoder(folders["bert"], truncation_side="right", device="cpu"), [LONG])
    assert "100.0 % of the reports lose their end" in caplog.text
    assert "reads no more" in caplog.text
    assert "diffusion" not in caplog.text


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(folder, *options) -> str:
    with pytest.raises(UserError) as caught:
        ReportEncoder(folder, *options, device="cpu")
    return str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "bart"])
def test_more_tokens_than_positions_are_refused(folders, kind):
    """Of RoBERTa's 66 positions two are the padding's."""
    assert "max_tokens is 65, but the text encoder reads at most 64 tokens" in refused(folders[kind], 65)
    assert ReportEncoder(folders[kind], 64, device="cpu").encode([LONG * 3])[0].shape == (64, WIDTH)


@pytest.mark.parametrize(("kind", "least"), [("bert", 3), ("t5", 2), ("gpt2", 1)])
def test_the_marks_must_leave_room_for_a_word(folders, kind, least):
    assert f"give {least} or more" in refused(folders[kind], least - 1)
    assert len(ReportEncoder(folders[kind], least, device="cpu").encode([SHORT])[0]) == least


def test_another_side_is_refused(folders):
    assert "give left or right" in refused(folders["bert"], None, "middle")


def test_a_model_of_images_and_texts_is_refused(tmp_path):
    halves = {
        "text_config": {"vocab_size": 200, **LAYERS},
        "vision_config": {"image_size": 32, "patch_size": 16, **LAYERS},
    }
    CLIPModel(CLIPConfig(**halves)).save_pretrained(tmp_path)
    wordpiece().save_pretrained(tmp_path)
    assert "holds no text encoder: CLIPModel has no table of tokens, or several" in refused(tmp_path)


def test_a_model_of_images_is_refused(tmp_path):
    ViTModel(ViTConfig(image_size=32, patch_size=16, **LAYERS)).save_pretrained(tmp_path)
    assert "holds no text encoder: ViTModel reads pixel_values" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "e5", "t5", "gpt2", "llama", "deberta"])
def test_an_encoder_without_its_tokenizer_is_refused(folders, kind, tmp_path):
    """Which transformers makes without a word in it for some kinds."""
    copy = shutil.copytree(folders[kind], tmp_path / "copy")
    for path in copy.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refused(copy)


def test_another_encoders_tokenizer_is_refused(folders, tmp_path):
    copy = shutil.copytree(folders["bert"], tmp_path / "copy")
    for path in folders["gpt2"].glob("tokenizer*"):
        shutil.copy(path, copy)
    assert "do not belong together" in refused(copy)


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"version https://git-lfs.github.com/spec/v1\n"])
def test_broken_and_missing_files_are_told(folders, tmp_path, broken, content):
    copy = shutil.copytree(folders["modernbert"], tmp_path / "copy")
    (copy / broken).unlink() if content is None else (copy / broken).write_bytes(content)
    message = refused(copy)
    assert str(copy) in message
    assert "hf download" in message


def test_a_file_that_lacks_weights_is_refused(folders, tmp_path):
    """transformers would draw them at random."""
    folder = changed(folders["bert"], tmp_path, "config.json", num_hidden_layers=3)
    assert "lack 16 weights of a BertModel, such as encoder.layer.2" in refused(folder)


def test_a_folder_of_another_size_is_refused(folders, tmp_path):
    folder = changed(folders["bert"], tmp_path, "config.json", intermediate_size=32)
    assert "6 of its weights have other sizes than config.json says, such as encoder.layer.0" in refused(folder)


def test_code_in_the_folder_is_not_run(folders, tmp_path):
    code = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    folder = changed(folders["bert"], tmp_path, "config.json", model_type="mine", auto_map=code)
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "it needs code that it brings along, which is not run" in refused(folder)
    assert not (tmp_path / "ran").exists()


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_pytorchs_files_are_read_as_weights_alone(folders, tmp_path, capsys):
    copy = shutil.copytree(folders["bert"], tmp_path / "copy")
    weights = ReportEncoder(copy, device="cpu").model.state_dict()
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    expected, found = (ReportEncoder(path, device="cpu").encode([SHORT])[0] for path in (folders["bert"], copy))
    assert torch.equal(found, expected)
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    refused(copy)
    torch.save({"x": Evil()}, copy / "pytorch_model.bin")
    refused(copy)
    assert capsys.readouterr().out == ""

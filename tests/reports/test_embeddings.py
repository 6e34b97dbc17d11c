"""Embedding reports: what the encoder gives, and what the embedding files hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel

from scripts.common.problems import UserError
from scripts.phantom.tiny_t5 import make
from scripts.reports.embeddings import (
    check_width,
    embedding_path,
    embedding_shape,
    pad_embeddings,
    read_embedding,
    read_encoder_fingerprint,
    write_embedding,
)
from scripts.reports.encoder import ReportEncoder, _device_for

SHORT = "Left base PZ lesion, 12 mm, PI-RADS 4."
LONG = "no restricted diffusion . " * 300 + SHORT
STRANGE = [
    "",
    "  \n\t ",
    "a\0b",
    "lone \ud800 surrogate \udc80",
    "前列腺左侧基底部病变 5 毫米",
    "آفة في الجانب الأيسر",
    "🩻" * 50,
    "</s> <pad> <extra_id_0>",
    "x" * 100_000,
    "left apex " * 10_000,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("t5")
    make(str(path), reports=80, steps=1, width=16, vocabulary=400)
    return path


@pytest.fixture(scope="module")
def encoder(folder):
    return ReportEncoder(folder, max_tokens=64, device="cpu")


# ---- encoder ---------------------------------------------------------------------------------------------------------


def test_truncation_keeps_the_end_and_the_end_token(encoder):
    short, long = encoder.tokens([SHORT, LONG])
    assert len(long) == 64
    assert long[-len(short) :] == short
    assert short[-1] == encoder.tokenizer.eos_token_id


def test_only_real_tokens_are_kept_without_padding(encoder):
    state, empty = encoder.encode([SHORT, ""])
    assert state.shape == (len(encoder.tokens([SHORT])[0]), encoder.width)
    assert state.dtype == torch.float16
    assert empty.shape == (1, encoder.width)


def test_padding_gives_every_position_and_does_not_change_the_tokens(encoder):
    (plain,), (padded,) = encoder.encode([SHORT]), encoder.encode([SHORT], padded=True)
    assert padded.shape == (64, encoder.width)
    torch.testing.assert_close(padded[: len(plain)], plain, rtol=0, atol=4e-3)


def test_a_result_does_not_depend_on_its_batch_mates(encoder):
    alone = encoder.encode([SHORT])[0]
    together = encoder.encode([LONG, "Right apex.", SHORT, "", LONG + " x"])[2]
    torch.testing.assert_close(together, alone, rtol=0, atol=4e-3)


def test_order_is_kept(encoder):
    texts = [SHORT, "x", LONG, "Normal prostate."]
    for text, state in zip(texts, encoder.encode(texts), strict=True):
        torch.testing.assert_close(state, encoder.encode([text])[0], rtol=0, atol=4e-3)
    assert encoder.encode([]) == []


def test_any_text_can_be_encoded_without_a_word_of_it_in_the_log(encoder, caplog, capsys):
    states = encoder.encode(STRANGE)
    assert all(1 <= len(state) <= 64 and state.isfinite().all() for state in states)
    torch.testing.assert_close(states[0], states[1])
    assert caplog.text == ""
    assert capsys.readouterr() == ("", "")


def test_the_fingerprint_tells_encoders_apart_but_not_precisions(folder, encoder, tmp_path):
    make(str(tmp_path), reports=80, steps=1, width=16, vocabulary=400, seed=1)
    assert ReportEncoder(folder, 64, dtype="bf16", device="cpu").fingerprint == encoder.fingerprint
    assert ReportEncoder(folder, 32, device="cpu").fingerprint != encoder.fingerprint
    assert ReportEncoder(tmp_path, 64, device="cpu").fingerprint != encoder.fingerprint


def test_half_precision_weights_are_loaded_as_such(folder):
    model = ReportEncoder(folder, dtype="bf16", device="cpu").model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["nowhere/at-all", "/no/such/folder", ""])
def test_a_missing_encoder_is_told_with_what_to_fetch(name):
    with pytest.raises(UserError, match=r"google/flan-t5-xxl.*Apache-2.0.*hf download"):
        ReportEncoder(name)


@pytest.mark.parametrize(
    ("option", "told"),
    [({"dtype": "fp16"}, "fp32 or bf16"), ({"max_tokens": 1}, "2 or more"), ({"device": "gpu"}, "device is 'gpu'")],
)
def test_options_that_cannot_work_are_refused(folder, option, told):
    with pytest.raises(UserError, match=told):
        ReportEncoder(folder, **option)


XXL = {"d_model": 4096, "d_kv": 64, "num_heads": 64, "d_ff": 10240, "num_layers": 24, "vocab_size": 32128}


@pytest.mark.parametrize(
    ("free", "dtype", "device"),
    [
        (14.5, torch.bfloat16, "cuda"),  # a GPU of 16 GB (14.9 GiB), less what CUDA itself takes
        (11.0, torch.bfloat16, "cpu"),
        (14.5, torch.float32, "cpu"),
        (24.0, torch.float32, "cuda"),
    ],
)
def test_the_reference_encoder_runs_on_a_gpu_of_16_gb_and_else_on_the_cpu(monkeypatch, free, dtype, device):
    with torch.device("meta"):
        model = T5EncoderModel(T5Config(**XXL, feed_forward_proj="gated-gelu")).to(dtype)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(4762e6, rel=1e-4)  # as docs/reports.md says
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * 2**30), 16 * 10**9))
    assert _device_for(model).type == device


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_embedding_is_read_back_bit_for_bit(tmp_path, dtype):
    embedding = torch.randn(7, 16).to(dtype)
    write_embedding(tmp_path / "e.safetensors", embedding, "abc")
    assert torch.equal(read_embedding(tmp_path / "e.safetensors"), embedding)
    assert read_encoder_fingerprint(tmp_path / "e.safetensors") == "abc"
    assert [file.name for file in tmp_path.iterdir()] == ["e.safetensors"]


@pytest.mark.parametrize("shape", [(512, 8), (1, 512, 8)])
def test_the_authors_arrays_are_read(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "e.npy", array)
    np.testing.assert_array_equal(read_embedding(tmp_path / "e.npy").numpy(), array.reshape(512, 8))


def test_pickled_arrays_and_broken_files_are_refused(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(5, np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((5, 2), np.int64))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("pickled.npy", "flat.npy", "whole.npy", "cut.safetensors", "empty.npy", "none.safetensors"):
        for read in (read_embedding, embedding_shape):
            with pytest.raises(UserError, match=name):
                read(tmp_path / name)
        assert read_encoder_fingerprint(tmp_path / name) is None


@pytest.mark.parametrize(
    "text",
    [None, 5, "Lesion at the left base.", "Lesion\n.npy", "Lesion\0.npy", "x" * 300 + ".npy", "x" * 600 + ".npy"],
)
def test_what_is_no_path_of_an_embedding_is_told_without_quoting_a_report(tmp_path, text):
    with pytest.raises(UserError, match=r"not the path|is missing") as caught:
        embedding_path(tmp_path, text)
    assert "Lesion" not in str(caught.value)


def test_a_path_of_an_embedding_is_inside_the_root_and_there(tmp_path):
    np.save(tmp_path / "e.npy", np.zeros((3, 8), np.float32))
    assert embedding_path(tmp_path, "./e.npy") == tmp_path.resolve() / "e.npy"
    assert embedding_shape(tmp_path / "e.npy") == (3, 8)
    with pytest.raises(UserError, match="leaves the data root"):
        embedding_path(tmp_path, "../e.npy")
    with pytest.raises(UserError, match=r"other\.safetensors: the report embedding is missing"):
        embedding_path(tmp_path, "other.safetensors")


def test_another_width_is_refused():
    check_width(8, 8, "a.safetensors")
    with pytest.raises(UserError, match=r"a\.safetensors.*width 8.*width 4096.*network_def#input_dim 8"):
        check_width(8, 4096, "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_batch_is_padded_with_zeros(dtype):
    """Half precision is kept; a batch that also has float32, as the authors' files, is float32."""
    batch = pad_embeddings([torch.ones(2, 4, dtype=torch.float16), torch.full((3, 4), 2.0, dtype=dtype)])
    assert batch.dtype == dtype
    assert batch.shape == (2, 3, 4)
    assert batch[0, 2].eq(0).all()
    assert batch[0, :2].eq(1).all()
    assert batch[1].eq(2).all()

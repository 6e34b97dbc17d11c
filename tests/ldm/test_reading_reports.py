"""Reports reach the network as those of its training did, and lie in memory no longer than they must."""

from __future__ import annotations

import json
import re
import shutil
import weakref
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from generating import SECRET, SIZE, digest, infer, list_jobs, make_weights, prepared, root_cause, voxels
from scripts.encode_reports import encode_reports
from scripts.reports.embeddings import EMPTY_REPORT, read_embedding, read_encoder_fingerprint, write_embedding
from scripts.reports.encoder import ReportEncoder
from text_encoders import LAYERS, make_text_encoder


def test_reports_are_encoded_on_the_fly_when_they_are_not_embedded(place, generated, tmp_path):
    """The same volume as from the stored embedding: both come from one report, encoded alone."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.json").write_text((place.data / "test.json").read_text())
    out = tmp_path / "out"
    infer(place, out, dataset_dir=str(data), text_encoder=str(place.root / "t5"), splits=["test"])
    assert np.abs(voxels(out / "004" / "axt2.nii.gz") - voxels(generated / "004" / "axt2.nii.gz")).max() <= 1
    affine = nib.load(out / "004" / "axt2.nii.gz").affine  # there is no real image to lie over
    assert np.allclose(affine @ [15.5, 15.5, 7.5, 1], [0, 0, 0, 1], atol=1e-4)


def test_stored_embeddings_are_in_memory_only_while_their_volumes_are_made(place, tmp_path, monkeypatch):
    """Those of ten thousand cases do not fit; what stays is the empty report's."""
    read = []

    def read_and_watch(path: Path) -> torch.Tensor:
        embedding = read_embedding(path)
        read.append(weakref.ref(embedding))
        return embedding

    monkeypatch.setattr("scripts.reports.reader.read_embedding", read_and_watch)
    jobs = list_jobs(place, tmp_path / "out")
    held = [embedding for ref in read if (embedding := ref()) is not None]
    assert len(jobs.todo) == 5
    assert len(held) == 1
    assert held[0] is jobs.null
    assert torch.equal(jobs.todo[0].embedding.read(), read_embedding(place.data / "embeddings" / "001.safetensors"))


def test_embeddings_that_are_made_here_leave_memory_for_a_file_without_a_name(place, tmp_path, monkeypatch):
    """Two of the five distinct reports fit; what is written is what a larger memory gives."""
    made = []

    def encode_and_watch(self, texts, padded=False):
        states = encode(self, texts, padded)
        made.extend((weakref.ref(state), state.clone()) for state in states)
        return states

    encode = ReportEncoder.encode
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        shutil.copy(place.data / f"{split}.json", data)
    given = {"dataset_dir": str(data), "text_encoder": str(place.root / "t5"), "steps": 1}
    infer(place, tmp_path / "large", **given)
    monkeypatch.setattr(ReportEncoder, "encode", encode_and_watch)
    monkeypatch.setattr("scripts.reports.shelf.IN_MEMORY", 400)
    workflow = infer(place, tmp_path / "small", **given)
    jobs = workflow.parser.get_parsed_content("jobs")
    assert sum(embedding.nbytes for _, embedding in made) > 400
    assert not [ref for ref, _ in made if ref() is not None]
    for job, (_, embedding) in zip(jobs.all, made, strict=True):
        assert torch.equal(job.embedding.read(), embedding)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(("tmp", "."))]
    for folder in ("001", "002", "003", "004", "005"):
        large, small = (tmp_path / size / folder for size in ("large", "small"))
        assert np.array_equal(voxels(large / "axt2.nii.gz"), voxels(small / "axt2.nii.gz"))
        assert digest(tmp_path / "large", folder) == digest(tmp_path / "small", folder)


def test_the_text_encoder_is_gone_before_the_network_comes(place, tmp_path, monkeypatch):
    """And what is left of its memory on a GPU is given back after it has gone."""
    encoders, gone = [], []

    def load_and_watch(self, *args):
        load(self, *args)
        encoders.extend(map(weakref.ref, [self.model, *self.model.parameters()]))

    load = ReportEncoder.__init__
    monkeypatch.setattr(ReportEncoder, "__init__", load_and_watch)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gone.append(all(one() is None for one in encoders)))
    workflow = prepared(place, tmp_path, report="apex", text_encoder=str(place.root / "t5"))
    jobs = workflow.parser.get_parsed_content("jobs")
    assert len(encoders) > 10
    assert gone == [True]
    assert jobs.todo[0].embedding.read().shape[1] == 16


def test_the_authors_weights_read_all_positions_of_a_report(place, authors, tmp_path):
    """Typed, from a datalist, from our files, from the authors': one embedding, and for a case one volume."""
    encoder = {"text_encoder": str(place.root / "t5")}
    infer(place, tmp_path / "typed", **authors.given, **encoder, report=f"{SECRET} x".encode())
    infer(place, tmp_path / "ours", **authors.given, dataset_dir=str(authors.padded))
    for name in ("plain", "theirs"):
        shutil.copytree(authors.padded, tmp_path / name)
    for path in (tmp_path / "plain").glob("*_merged.json"):
        path.unlink()
    infer(place, tmp_path / "listed", **authors.given, **encoder, dataset_dir=str(tmp_path / "plain"))
    cases = json.loads((tmp_path / "theirs" / "test_merged.json").read_text())
    for case in cases:
        embedding = read_embedding(tmp_path / "theirs" / case["text"])
        assert len(embedding) == 512
        case["text"] = f"./{case['folder']}/text_emb.npy"
        np.save(tmp_path / "theirs" / case["text"], embedding.float().numpy()[None])
    (tmp_path / "theirs" / "test_merged.json").write_text(json.dumps(cases))
    infer(place, tmp_path / "npy", **authors.given, dataset_dir=str(tmp_path / "theirs"))
    expected = digest(tmp_path / "typed", "report")
    assert [digest(tmp_path / name, "004") for name in ("ours", "listed", "npy")] == [expected] * 3
    volumes = [voxels(tmp_path / name / "004" / "axt2.nii.gz") for name in ("ours", "listed", "npy")]
    assert volumes[0].shape == SIZE
    assert all(np.array_equal(volume, volumes[0]) for volume in volumes)


@pytest.mark.parametrize("max_tokens", [None, 64])
def test_the_authors_weights_refuse_fewer_positions(place, authors, tmp_path, max_tokens):
    """Of files without padding, and of a report that is embedded to another length."""
    changes = {"dataset_dir": str(authors.short)}
    if max_tokens:
        changes = {"report": b"x", "text_encoder": str(place.root / "t5"), "max_tokens": max_tokens}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **authors.given, **changes)
    message = str(root_cause(error.value))
    assert re.search(
        r"(004|report) +its report was embedded at \d+ positions, .* all 512 -> encode it with --padded", message
    )
    assert "--padded_reports false" in message
    assert not (tmp_path / "out").exists()


def test_the_authors_weights_read_fewer_positions_where_the_user_says_so(place, authors, tmp_path, capsys):
    infer(place, tmp_path, **authors.given, dataset_dir=str(authors.short), padded_reports=False)
    assert "padded_reports is false, but the authors' weights attend to all 512 positions" in capsys.readouterr().out
    assert (tmp_path / "004" / "axt2.nii.gz").is_file()


@pytest.mark.parametrize("source", [{"splits": "test"}, {"report": b"x"}])
def test_another_text_encoder_is_refused(place, tmp_path, source):
    make_weights(tmp_path / "model.safetensors", **place.meta | {"encoder_fingerprint": "0123456789abcdef"})
    changes = {"model_file": str(tmp_path / "model.safetensors"), "text_encoder": str(place.root / "t5"), **source}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **changes)
    assert "text encoder" in str(root_cause(error.value)).replace("_", " ")
    assert not (tmp_path / "out").exists()


def test_a_typed_report_is_embedded_as_those_of_the_training(place, embedded, tmp_path):
    """The same embedding as the file of the case with that report; the padding need not be said."""
    report = f"{SECRET} x".encode()
    infer(place, tmp_path / "typed", report=report, **embedded.given, max_tokens=embedded.right["max_tokens"])
    infer(place, tmp_path / "said", report=report, **embedded.given, **embedded.right)
    infer(place, tmp_path / "listed", dataset_dir=str(embedded.data), splits=["test"], **embedded.given)
    typed, said = (digest(tmp_path / name, "report") for name in ("typed", "said"))
    assert typed == said == digest(tmp_path / "listed", "004")


@pytest.mark.parametrize("wrong", ["padded_reports", "max_tokens"])
def test_a_typed_report_embedded_in_another_way_is_refused(place, embedded, tmp_path, wrong):
    right = embedded.right[wrong]
    changes = embedded.right | {wrong: not right if wrong == "padded_reports" else right + 1}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", report=b"x", **embedded.given, **changes)
    wanted = f"give --padded_reports {str(right).lower()}" if wrong == "padded_reports" else "--max_tokens that"
    assert wanted in str(root_cause(error.value))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["e5", "qwen"])
def test_any_text_encoder_embeds_a_typed_report_as_those_of_the_training(place, tmp_path, kind):
    data, encoder = tmp_path / "data", make_text_encoder(tmp_path / kind, kind)
    shutil.copytree(place.data, data)
    encode_reports(str(data), str(encoder), truncation_side="right", device="cpu")
    stamp = read_encoder_fingerprint(data / EMPTY_REPORT)
    make_weights(tmp_path / "model.safetensors", **place.meta | {"encoder_fingerprint": stamp})
    given = {"model_file": str(tmp_path / "model.safetensors"), "steps": 1, "text_encoder": str(encoder)}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "typed", report=b"x", **given)
    assert "max_tokens 64, cut on the left, is not the one" in str(root_cause(error.value))
    infer(place, tmp_path / "typed", report=f"{SECRET} x".encode(), truncation_side="right", **given)
    infer(place, tmp_path / "listed", dataset_dir=str(data), splits=["test"], **given)
    assert digest(tmp_path / "typed", "report") == digest(tmp_path / "listed", "004")


def test_a_text_encoder_of_another_width_is_told_with_what_to_give(place, tmp_path, monkeypatch):
    monkeypatch.setitem(LAYERS, "hidden_size", 32)
    encoder = make_text_encoder(tmp_path / "bert", "bert")
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", report=b"x", text_encoder=str(encoder))
    message = str(root_cause(error.value))
    assert "width 32, the network reads width 16" in message
    assert "--network_def#input_dim 32" in message
    assert not (tmp_path / "out").exists()


def test_what_is_lost_of_the_reports_is_told(place, tmp_path, capsys):
    encoder = make_text_encoder(tmp_path / "t5", "t5")
    infer(place, tmp_path / "out", report="前列腺左侧基底部病变".encode(), text_encoder=str(encoder), steps=1)
    shown = "".join(capsys.readouterr())
    assert "WARNING 50.0 % of the tokens are unknown to the text encoder" in shown
    assert "前列腺" not in shown


def test_files_that_differ_in_padding_alone_are_told_so(place, tmp_path):
    shutil.copytree(place.data, tmp_path / "data")
    encode_reports(str(tmp_path / "data"), str(place.root / "t5"), device="cpu", padded=True)
    stamp = read_encoder_fingerprint(place.data / EMPTY_REPORT)
    make_weights(tmp_path / "model.safetensors", **place.meta | {"encoder_fingerprint": stamp})
    given = {"model_file": str(tmp_path / "model.safetensors"), "dataset_dir": str(tmp_path / "data")}
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", **given)
    message = str(root_cause(error.value))
    assert "004" in message
    assert "was embedded with --padded -> encode it without --padded" in message


def test_embeddings_of_another_width_are_refused(place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place.data, data)
    write_embedding(data / "embeddings" / "005.safetensors", torch.ones(3, 8), "encoder")
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", dataset_dir=str(data), splits=["test"])
    message = str(root_cause(error.value))
    assert "005" in message
    assert "of width 8, the network reads width 16" in message
    assert not (tmp_path / "out").exists()

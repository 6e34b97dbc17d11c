"""The tiny T5 is made the same way each time, and loads like any other T5."""

from __future__ import annotations

import re
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from scripts.common.problems import UserError
from scripts.phantom import tiny_t5
from scripts.phantom.anatomy import sample_findings
from scripts.phantom.tiny_t5 import CATEGORY, FIRST_SEED, findings_vector, make, training_reports
from wording_reader import plain

SETTING = {"reports": 80, "steps": 2, "width": 16, "layers": 2, "vocabulary": 400}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("t5")
    make(str(path), **SETTING)
    return path


def test_the_same_command_gives_the_same_files(folder, tmp_path):
    make(str(tmp_path), **SETTING)
    names = sorted(path.name for path in folder.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_a_stop_while_saving_leaves_no_encoder_that_is_a_mixture(folder, tmp_path, monkeypatch):
    """The folder holds another encoder; `config.json`, without which nothing loads, goes first and comes last."""
    make(str(tmp_path), **SETTING | {"width": 32})
    copies = []

    def stop(source, target):
        copies.append(Path(source).name)
        if len(copies) > 2:
            raise OSError("no space left on device")
        target.write_bytes(Path(source).read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(tiny_t5.shutil, "copyfile", stop)
        with pytest.raises(UserError, match="no space"):
            make(str(tmp_path), **SETTING)
    assert "config.json" not in {path.name for path in tmp_path.iterdir()}
    make(str(tmp_path), **SETTING)
    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())
    assert not list(tmp_path.glob(".part-*"))


def test_numbers_out_of_range_are_told_at_once_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError) as caught:
        make(str(tmp_path / "t5"), seed=-1, reports=0, steps=0, width=10, vocabulary=50)
    assert all(f"--{name}" in str(caught.value) for name in ("seed", "reports", "steps", "width", "vocabulary"))
    assert not (tmp_path / "t5").exists()


def test_the_shortest_reports_come_first_and_all_are_read_in_the_end(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["left " * (n + 1) for n in range(100)]
    read = [index.tolist() for index, _, _ in tiny_t5._batches(tokenizer, texts, np.random.default_rng(0), 200, 1000)]
    assert max(n for batch in read[:20] for n in batch) < 15
    assert {n for batch in read[400:] for n in batch} == set(range(100))


def test_heads_begin_with_neighbours():
    encoder = T5EncoderModel(T5Config(vocab_size=9, d_model=64, d_kv=16, num_layers=1, num_heads=4, d_ff=8))
    tiny_t5.look_nearby(encoder)
    bias = (
        encoder.encoder.block[0].layer[0].SelfAttention.compute_bias(21, 21)[0, :, 10]
    )  # from the middle, each head's
    ahead, behind = bias[:, 11:], bias[:, :10].flip(1)
    assert torch.equal(ahead.diff().sign().clamp(min=0), torch.zeros(4, 9))  # never more of what lies farther
    assert (ahead[0, 0] > behind[0]).all()
    assert (behind[1, 0] > ahead[1]).all()
    assert torch.equal(ahead[2:], behind[2:])
    assert (ahead[2:, 4] > ahead[:2].amin(1)).all()  # the later heads look farther


def test_it_loads_as_t5(folder):
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), T5EncoderModel.from_pretrained(folder)
    batch = tokenizer(["Left base.", "PI-RADS 4, right apex."], padding=True, return_tensors="pt")
    states = encoder(**batch).last_hidden_state
    assert states.shape == (*batch.input_ids.shape, 16)
    assert states.isfinite().all()
    assert batch.input_ids[0].tolist().count(tokenizer.eos_token_id) == 1
    assert encoder.config.model_type == "t5"


def test_words_and_numbers_are_apart_and_case_does_not_matter(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("LEFT,12mm") == tokenizer.tokenize("left , 12 mm")
    assert tokenizer.truncation_side == "left"


def known(number: int) -> torch.Tensor:
    """The findings of the patients of the first training reports."""
    patients = (sample_findings(seed) for seed in count(FIRST_SEED))
    reported = (findings for findings in patients if not findings.report_is_missing)
    return torch.tensor([findings_vector(findings) for findings in islice(reported, number)])


def test_findings_are_told_by_sector_place_and_category():
    targets = known(50)
    assert targets.shape == (50, 25)
    assert torch.equal(targets[:, CATEGORY].sum(1), torch.ones(50))
    # PI-RADS 1 and 2 have no lesion, the others have.
    has_lesion = targets[:, 21:24].sum(1) > 0
    assert torch.equal(targets[:, :12].sum(1) > 0, has_lesion)
    # A zone, side or level has a lesion where one of its sectors has.
    sectors = targets[:, :12].unflatten(1, (2, 2, 3)) > 0
    places = [sectors.flatten(2).any(2), sectors.transpose(1, 2).flatten(2).any(2), sectors.flatten(1, 2).any(1)]
    assert torch.equal(targets[:, 12:19] > 0, torch.cat(places, 1))


def test_targets_tell_what_is_said_alone():
    texts, targets = training_reports(200, seed=0)
    said = ~targets.isnan()
    assert all(texts)
    assert torch.equal(targets[said], known(200)[said])
    assert torch.equal(said[:, CATEGORY].all(1), said[:, CATEGORY].any(1))  # a category is said or not
    assert 0.02 < (~said[:, :12]).any(1).float().mean() < 0.3
    assert 0.1 < (~said[:, 24]).float().mean() < 0.9
    for text, volume in zip(texts, said[:, 24], strict=True):
        assert volume == bool(re.search(r"(?i)\d\s+(ml|cc|cm3|cm³)(?!\w)", plain(text))), text


def test_the_shipped_encoder_is_small_and_tells_sides_apart(repo_root):
    folder = Path(repo_root) / "bundles/ccella_ldm/models/demo_t5"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4_000_000
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), T5EncoderModel.from_pretrained(folder)
    sides, levels, sizes = ("left", "right"), ("base", "apex"), (8, 14)
    texts = [f"{size} mm lesion, {side} {level} PZ." for side in sides for level in levels for size in sizes]
    with torch.inference_mode():
        states = encoder(**tokenizer(texts, return_tensors="pt")).last_hidden_state
    assert 0.5 < states.std() < 2
    # Left minus right points into the same half-space at every level and size, in the mean and in the end token.
    for part in (states.mean(1), states[:, -1]):
        left, right = part.view(2, 4, -1)
        directions = torch.nn.functional.normalize(left - right, dim=1)
        assert (directions @ directions.T).min() > 0


def test_findings_vector_is_in_centimetres_by_sector():
    findings = next(f for f in map(sample_findings, range(99)) if len(f.lesions) == 2)
    values = findings_vector(findings)[:12]
    assert max(values) == pytest.approx(findings.lesions[0].diameter_mm / 10)
    assert sum(value > 0 for value in values) == 2

"""The encode command: one file for each distinct report, lists that point at them, resumable, sharded."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from scripts.common.problems import UserError
from scripts.encode_reports import encode_reports
from scripts.phantom.tiny_t5 import make
from scripts.reports.embeddings import EMPTY_REPORT, read_embedding
from scripts.reports.encoder import ReportEncoder
from text_encoders import make_text_encoder

SECRET = "Confidential lesion at the left base"


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("t5")
    make(str(path), reports=80, steps=1, width=16, vocabulary=400)
    return str(path)


def case(folder: str, text: str, isnull: int = 0) -> dict:
    return {
        "axt2": f"./{folder}/axt2.nii.gz",
        "dataset": "Institute1",
        "folder": folder,
        "pirads": [1, 0],
        "spacing": [0.5, 0.5, 0.5625],
        "text": text,
        "text_isnull": isnull,
    }


@pytest.fixture
def root(tmp_path):
    train = [case("a", SECRET), case("b", "Right apex."), case("c", "", 1), case("d", SECRET)]
    test = [case("e", "Right apex."), case("f", " \n "), case("g", "x " * 3000), case("h", "marked absent", 1)]
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "test.json").write_text(json.dumps(test))
    return tmp_path


def merged(root, split):
    return json.loads((root / f"{split}_merged.json").read_text())


def test_each_distinct_report_is_embedded_once(root, encoder_dir):
    (root / "embeddings" / ".part-of-a-killed-run").mkdir(parents=True)
    encode_reports(str(root), encoder_dir)
    train, test = merged(root, "train"), merged(root, "test")
    assert train[0]["text"] == train[3]["text"]
    assert train[1]["text"] == test[0]["text"]
    assert {entry["text"] for entry in (train[2], test[1], test[3])} == {EMPTY_REPORT}
    assert len(list((root / "embeddings").iterdir())) == 4
    encoder = ReportEncoder(encoder_dir, device="cpu")
    torch.testing.assert_close(read_embedding(root / train[0]["text"]), encoder.encode([SECRET])[0], rtol=0, atol=4e-3)
    assert len(read_embedding(root / test[2]["text"])) == 512


def test_reports_without_images_are_embedded_with_the_rest(root, encoder_dir):
    report = {name: value for name, value in case("r", "Left base.").items() if name != "axt2"}
    (root / "reports.json").write_text(json.dumps([report]))
    encode_reports(str(root), encoder_dir)
    (embedded,) = merged(root, "reports")
    assert embedded == report | {"text": embedded["text"]}
    assert read_embedding(root / embedded["text"]).shape[1] == 16


def test_the_lists_change_in_text_alone(root, encoder_dir):
    encode_reports(str(root), encoder_dir)
    for split in ("train", "test"):
        before, after = json.loads((root / f"{split}.json").read_text()), merged(root, split)
        for old, new in zip(before, after, strict=True):
            assert {**old, "text": "", "text_isnull": 0} == {**new, "text": "", "text_isnull": 0}
            assert new["text_isnull"] == int(new["text"] == EMPTY_REPORT)


def test_absent_reports_are_counted_and_no_text_is_logged(root, encoder_dir, caplog, capfd):
    with caplog.at_level(logging.INFO):
        encode_reports(str(root), encoder_dir)
    shown = caplog.text + "".join(capfd.readouterr())
    assert "1 reports are empty or white space" in shown
    assert "1 reports are marked as absent" in shown
    assert "Confidential" not in shown
    assert not any("Confidential" in path.name for path in (root / "embeddings").iterdir())


def test_complete_files_are_kept_and_broken_ones_made_again(root, encoder_dir):
    encode_reports(str(root), encoder_dir)
    good, broken = (root / entry["text"] for entry in merged(root, "train")[:2])
    cut = root / EMPTY_REPORT
    cut.write_bytes(good.read_bytes()[:-1])
    broken.write_bytes(b"half")
    stamp = good.stat().st_mtime_ns
    encode_reports(str(root), encoder_dir)
    assert good.stat().st_mtime_ns == stamp
    assert read_embedding(broken).shape[1] == 16
    assert len(read_embedding(cut)) == 1


def test_another_encoder_writes_its_own_files_and_the_empty_report_anew(root, encoder_dir, tmp_path_factory):
    other = str(tmp_path_factory.mktemp("other"))
    make(other, reports=80, steps=1, width=32, vocabulary=400)
    encode_reports(str(root), encoder_dir)
    before = merged(root, "train")
    encode_reports(str(root), other)
    assert before[0]["text"] != merged(root, "train")[0]["text"]
    assert read_embedding(root / EMPTY_REPORT).shape[1] == 32


def test_padded_files_hold_every_position(root, encoder_dir):
    encode_reports(str(root), encoder_dir, padded=True)
    shapes = {tuple(read_embedding(root / entry["text"]).shape) for entry in merged(root, "train")}
    assert shapes == {(512, 16)}


def test_two_ranks_give_what_one_gives(root, encoder_dir, repo_root, tmp_path_factory):
    encode_reports(str(root), encoder_dir)
    one = {path.name: path.read_bytes() for path in (root / "embeddings").iterdir()}
    lists = [merged(root, split) for split in ("train", "test")]
    for path in [*(root / "embeddings").iterdir(), root / "train_merged.json", root / "test_merged.json"]:
        path.unlink()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "scripts.encode_reports", "--data_dir", str(root), "--encoder", encoder_dir]
    subprocess.run(command, cwd=repo_root, timeout=180, check=False, capture_output=True)
    two = {path.name: path for path in (root / "embeddings").iterdir()}
    assert two.keys() == one.keys()
    assert [merged(root, split) for split in ("train", "test")] == lists
    for name, path in two.items():
        (tmp := tmp_path_factory.mktemp("x") / name).write_bytes(one[name])
        torch.testing.assert_close(read_embedding(path), read_embedding(tmp), rtol=0, atol=4e-3)


@pytest.mark.parametrize("kind", ["roberta", "modernbert", "llama", "byt5"])
def test_any_text_encoder_will_do(root, kind, tmp_path_factory):
    folder = make_text_encoder(tmp_path_factory.mktemp("encoder"), kind)
    encode_reports(str(root), str(folder), device="cpu")
    encoder = ReportEncoder(folder, device="cpu")
    for case, entry in zip(json.loads((root / "test.json").read_text()), merged(root, "test"), strict=True):
        text = "" if entry["text_isnull"] else case["text"]
        torch.testing.assert_close(read_embedding(root / entry["text"]), encoder.encode([text])[0], rtol=0, atol=4e-3)


def test_what_is_lost_of_the_reports_is_told_before_they_are_embedded(root, tmp_path_factory, caplog):
    """Each report counts once; also where nothing is left to embed."""
    folder = make_text_encoder(tmp_path_factory.mktemp("encoder"), "t5")
    cases = [case("a", "left apex"), case("b", "left apex"), case("c", "前列腺左侧"), case("d", "left " * 600)]
    (root / "train.json").write_text(json.dumps(cases)), (root / "test.json").unlink()
    caplog.set_level(logging.INFO)
    encode_reports(str(root), str(folder), device="cpu")
    told = [record.getMessage() for record in caplog.records]
    first = next(at for at, line in enumerate(told) if line.startswith("3 different reports"))
    assert "1 reports (33.3 %) are longer than 512 tokens" in told[first]
    assert "33.3 % of the reports lose their beginning" in told[first + 1]
    assert "network_def#input_dim" in told[-1]
    assert "前列腺" not in caplog.text
    caplog.clear()
    encode_reports(str(root), str(folder), device="cpu", max_tokens=2000)
    encode_reports(str(root), str(folder), device="cpu", max_tokens=2000)
    assert caplog.text.count("0 reports (0.0 %) are longer than 2000 tokens") == 2
    assert "lose their" not in caplog.text


def test_files_hold_no_text(root, encoder_dir):
    encode_reports(str(root), encoder_dir)
    for path in (root / "embeddings").iterdir():
        assert b"Confidential" not in path.read_bytes()
        with safe_open(path, "pt") as file:
            assert set(file.metadata()) == {"encoder", "width", "identity"}


def test_merged_lists_of_another_split_are_replaced(root, encoder_dir):
    encode_reports(str(root), encoder_dir)
    train, test = (root / f"{split}.json" for split in ("train", "test"))
    train.rename(root / "was_train.json"), test.rename(train), (root / "was_train.json").rename(test)
    encode_reports(str(root), encoder_dir)
    assert [[entry["folder"] for entry in merged(root, split)] for split in ("train", "test")] == [
        ["e", "f", "g", "h"], ["a", "b", "c", "d"],
    ]  # fmt: skip


def test_mistakes_are_told_before_anything_is_written(root, encoder_dir):
    with pytest.raises(UserError, match="flan-t5-xxl"):
        encode_reports(str(root), "no/such-encoder")
    (root / "test.json").write_text(json.dumps([case("a", SECRET) | {"pirads": [1, 1]}]))
    with pytest.raises(UserError, match="one-hot") as caught:
        encode_reports(str(root), encoder_dir)
    assert "Confidential" not in str(caught.value)
    (root / "test.json").write_text(json.dumps([case("a", "embeddings/x.safetensors")]))
    with pytest.raises(UserError, match="list that holds the reports"):
        encode_reports(str(root), encoder_dir)
    assert not (root / "embeddings").exists()
    assert not (root / "train_merged.json").exists()


def test_a_folder_without_lists_is_refused(tmp_path, encoder_dir):
    with pytest.raises(UserError, match=r"neither train\.json nor test\.json"):
        encode_reports(str(tmp_path), encoder_dir)


def test_a_patient_in_both_lists_is_refused_before_the_encoder_is_loaded(root):
    for name in ("train.json", "test.json"):
        cases = json.loads((root / name).read_text())
        cases[0]["patient"] = "P1"
        (root / name).write_text(json.dumps(cases))
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError, match=r"patient P1 .*both train and test") as caught:
        encode_reports(str(root), "no/such/encoder")
    assert SECRET not in str(caught.value)
    assert sorted(root.rglob("*")) == before

"""What volumes are made from: absent reports, the authors' lists, and everything that is wrong with a case."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from generating import SECRET, infer, root_cause, voxels
from scripts.encode_reports import encode_reports
from scripts.reports.embeddings import read_embedding


def test_absent_reports_are_absent_with_and_without_merged_lists(place, tmp_path, capsys):
    """004 has a text that `text_isnull` says is not to be used, 005 one of white space: volumes of the empty report."""
    data, encoder = tmp_path / "data", str(place.root / "t5")
    shutil.copytree(place.data, data)
    first, second = json.loads((data / "test.json").read_text())
    (data / "test.json").write_text(json.dumps([first | {"text_isnull": 1}, second | {"text": "  \n"}]))
    encode_reports(str(data), encoder, device="cpu")
    infer(place, tmp_path / "merged", dataset_dir=str(data), splits=["test"], steps=1)
    for path in data.glob("*_merged.json"):
        path.unlink()
    capsys.readouterr()
    infer(place, tmp_path / "plain", dataset_dir=str(data), splits=["test"], steps=1, text_encoder=encoder)
    printed = capsys.readouterr().out
    assert "1 reports are empty or white space" in printed
    assert "1 reports are marked as absent (text_isnull 1)" in printed
    for folder in ("004", "005"):
        records = [
            json.loads((tmp_path / route / folder / "generated.json").read_text()) for route in ("merged", "plain")
        ]
        assert records[0]["settings"] == records[1]["settings"]
        path = Path(folder) / "axt2.nii.gz"
        assert np.array_equal(voxels(tmp_path / "merged" / path), voxels(tmp_path / "plain" / path))


def test_the_authors_lists_have_the_empty_report_at_a_case_without_one(place, generated, tmp_path):
    """The same guided volumes from .npy files, without our file of the empty report."""
    data = tmp_path / "data"
    shutil.copytree(place.data, data)
    cases = json.loads((data / "train_merged.json").read_text())
    for case in cases:
        embedding = read_embedding(data / case["text"]).float().numpy()
        case["text"] = f"./{case['folder']}/text_emb.npy"
        np.save(data / case["text"], embedding[None])
    (data / "train_merged.json").write_text(json.dumps(cases))
    shutil.rmtree(data / "embeddings")
    infer(place, tmp_path / "out", dataset_dir=str(data), splits=["train"])
    for folder in ("001", "002", "003"):
        path = Path(folder) / "axt2.nii.gz"
        assert np.array_equal(voxels(tmp_path / "out" / path), voxels(generated / path))


def test_broken_cases_are_told_together(place, tmp_path):
    data = tmp_path / "data"
    cases = json.loads((place.data / "test_merged.json").read_text())
    for case, text in zip(cases, (f"{SECRET} the report itself", "../outside.safetensors"), strict=True):
        case["text"] = text
    cases.append({name: value for name, value in cases[0].items() if name != "text_isnull"} | {"folder": "006"})
    data.mkdir()
    (data / "test_merged.json").write_text(json.dumps(cases))
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", dataset_dir=str(data), splits=["test"])
    message = str(root_cause(error.value))
    assert all(folder in message for folder in ("004", "005", "006"))
    assert "text_isnull" in message
    assert SECRET not in message


@pytest.mark.parametrize("key", ["text", "text_isnull"])
def test_a_case_that_does_not_tell_its_report_is_named(place, tmp_path, key):
    case = json.loads((place.data / "test.json").read_text())[0]
    del case[key]
    (tmp_path / "test.json").write_text(json.dumps([case]))
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", dataset_dir=str(tmp_path), splits=["test"], text_encoder="nowhere")
    assert f"1 problem\n  004  {key} is" in str(root_cause(error.value))


def test_a_broken_real_image_is_named_because_the_volume_is_put_in_its_place(place, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(place.data, data)
    (data / "003" / "axt2.nii.gz").write_bytes(b"no image")
    with pytest.raises(RuntimeError) as error:
        infer(place, tmp_path / "out", dataset_dir=str(data))
    assert "003  axt2.nii.gz cannot be read as NIfTI" in str(root_cause(error.value))
    assert not (tmp_path / "out").exists()


def test_a_report_without_images_has_the_class_of_its_list_and_no_row_in_the_sheet(place, tmp_path):
    data, encoder = tmp_path / "data", str(place.root / "t5")
    shutil.copytree(place.data, data)
    assert (data / "clinical.xlsx").is_file()
    like = json.loads((data / "test.json").read_text())[0]
    report = {name: like[name] for name in ("dataset", "spacing", "text_isnull") if name in like}
    report |= {"folder": "r1", "patient": "PR", "pirads": [0, 1], "text": "Lesion."}
    (data / "reports.json").write_text(json.dumps([report]))
    encode_reports(str(data), encoder, device="cpu")
    out = tmp_path / "out"
    infer(place, out, dataset_dir=str(data), splits=["test", "reports"], replicates=2, steps=1)
    for folder, replicate in (("r1", 0), ("r1_1", 1)):
        record = json.loads((out / folder / "generated.json").read_text())
        assert (record["source"], record["split"], record["replicate"]) == ("r1", "reports", replicate)
        assert (record["pirads_real"], record["entry"]["patient"]) == (1, "PR")
    sheet = pd.read_excel(out / "synthsheet_all.xlsx", dtype={"folder": str}).set_index("folder")
    assert sheet["PIRADS_real"]["r1_1"] == 1
    assert {"004", "005", "004_1", "005_1"} < set(sheet.index)

"""PI-CAI's folders, as they are downloaded and made of phantoms here, into findings, reports and a data root."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from public_downloads import save_mha
from scripts.data.clinical import read_clinical
from scripts.data.datalists import is_positive, patient_of, read_datalist
from scripts.data.nifti import save_nifti
from scripts.evaluation.adherence import read_truth
from scripts.prepare import prepare
from scripts.public.picai import picai

CENTRES = ("RUMC", "PCNN", "ZGT")
SCORE = re.compile(r"RADS(?! v2\.1 prescribes)\W{0,3}(score|category)?\W{0,3}[1-5]")  # which PI-CAI does not tell
HEADER = (
    "patient_id,study_id,mri_date,patient_age,psa,psad,prostate_volume,histopath_type,lesion_GS,lesion_ISUP,"
    "case_ISUP,case_csPCa,center"
)


def name_of(number):
    """Two exams of one patient at the end, as there are in PI-CAI."""
    return f"{10000 + min(number, 8)}_{1000000 + number}"


@pytest.fixture(scope="session")
def download(tmp_path_factory, phantoms):
    """The images in folds, and picai_labels."""
    root = tmp_path_factory.mktemp("picai")
    labels = root / "picai_labels"
    rows = []
    for number, phantom in enumerate(phantoms):
        name, truth = name_of(number), phantom.findings
        patient = name.split("_")[0]
        folder = root / "images" / f"fold{number % 2}" / patient
        for ours, theirs in (("axt2", "t2w"), ("adc", "adc"), ("b1600", "hbv"), ("axt2", "sag"), ("axt2", "cor")):
            save_mha(folder / f"{name}_{theirs}.mha", phantom.volumes[ours], phantom.affine)
        grades = np.array([0, *(max(lesion.isup, 2) for lesion in truth.lesions)], np.uint8)
        delineations = {
            "csPCa_lesion_delineations/human_expert/resampled": grades[phantom.masks["lesions"]],
            "anatomical_delineations/whole_gland/AI/Bosma22b": phantom.masks["gland"],
            "anatomical_delineations/zonal_pz_tz/AI/HeviAI23": phantom.masks["zones"],
        }
        for place, mask in delineations.items():
            save_nifti(labels / place / f"{name}.nii.gz", mask, phantom.affine)
        rows.append(
            f'{patient},{1000000 + number},2019-07-02,{truth.age},{truth.psa},,{truth.gland_ml},MRBx,"3+4,N/A","2,N/A",'
            f"{grades.max()},{'YES' if truth.lesions else 'NO'},{CENTRES[number % 3]}"
        )
    sheet = labels / "clinical_information" / "marksheet.csv"
    sheet.parent.mkdir()
    sheet.write_text("\n".join([HEADER, *rows, "10099,1000099,2019-07-02,60,,,,,,,0,NO,ZGT"]) + "\n")
    return root


def run(download, output, **options):
    picai(str(download / "images"), str(download / "picai_labels"), str(output), **options)
    return pd.read_csv(output / "exams.csv", dtype=str, keep_default_na=False)


def test_findings_reports_and_classes(download, phantoms, tmp_path, caplog):
    caplog.set_level("INFO")
    exams = run(download, tmp_path).set_index("folder")
    assert list(exams.index) == [name_of(number) for number in range(10)]
    truth = read_truth(tmp_path)
    for number, phantom in enumerate(phantoms):
        row, found, expected = exams.loc[name_of(number)], truth[name_of(number)], phantom.findings
        assert (row["centre"], row["patient"]) == (CENTRES[number % 3], name_of(number).split("_")[0])
        assert float(row["gland_ml"]) == pytest.approx(expected.gland_ml, rel=0.02)
        assert float(row["psa"]) == expected.psa
        assert int(row["isup"]) == max((max(lesion.isup, 2) for lesion in expected.lesions), default=0)
        assert row["pirads"] == ""
        texts = [row[name] for name in ("report", "report_2", "report_3")]
        assert all(texts)
        assert len(set(texts)) == 3
        if expected.lesions:
            (first,) = expected.lesions[:1]
            assert (found.lesion.zone, found.lesion.side, found.lesion.level) == (first.zone, first.side, first.level)
            assert found.lesion.isup == max(first.isup, 2)
            assert found.lesion.pirads is None
        else:
            assert found.lesion is None
    assert not any(SCORE.search(text) for text in exams["report"])
    assert "whose images are not there: 10099_1000099" in caplog.text
    assert exams["report"].iloc[0] not in caplog.text


def test_the_same_call_writes_the_same_and_another_seed_other_words(download, tmp_path):
    first = run(download, tmp_path / "a")
    assert run(download, tmp_path / "a").equals(first)  # a second time into the same folder
    other = run(download, tmp_path / "b", seed=1, wordings=1)
    assert "report_2" not in other
    assert not other["report"].equals(first["report"])
    assert other["gland_ml"].equals(first["gland_ml"])


def test_prepare_takes_it_and_one_centre_tests(download, tmp_path):
    exams = run(download, tmp_path, test_centres=["ZGT"])
    tests = set(exams["patient"][exams["centre"] == "ZGT"])
    assert "10008" in tests  # whose other exam is of RUMC
    assert list(exams["split"]) == ["test" if patient in tests else "train" for patient in exams["patient"]]
    prepare(
        str(tmp_path / "exams.csv"), str(tmp_path / "images"), str(tmp_path),
        t2w="t2w.mha", adc="adc.mha", dwi="hbv.mha",
        isup_column="isup", patient_column="patient", split_column="split", institute_column="centre",
        centre_columns=("x", "y", "z"), centre_world="ras", size=(16, 16, 8), spacing=(4, 4, 6),
    )  # fmt: skip
    lists = {name: read_datalist(tmp_path / f"{name}.json", tmp_path) for name in ("train", "test")}
    assert {patient_of(case) for case in lists["test"]} == tests
    assert not tests & {patient_of(case) for case in lists["train"]}
    rows = exams.set_index("folder")
    for case in lists["train"] + lists["test"]:
        row = rows.loc[case["folder"]]
        assert (case["dataset"], case["text"]) == (row["centre"], row["report"])
        assert is_positive(case) == (int(row["isup"]) >= 2)
    assert len(read_clinical(tmp_path / "clinical.xlsx")) == 10
    assert read_truth(tmp_path).keys() == set(exams["folder"])


def test_what_masks_and_marksheet_do_not_agree_on_is_left_out(download, tmp_path, caplog):
    sheet = pd.read_csv(download / "picai_labels" / "clinical_information" / "marksheet.csv", dtype=str)
    sheet.loc[0, "case_csPCa"] = "NO"
    sheet.loc[9, ["case_csPCa", "case_ISUP"]] = ["YES", "3"]
    sheet.to_csv(tmp_path / "marksheet.csv", index=False)
    exams = run(download, tmp_path / "out", marksheet=str(tmp_path / "marksheet.csv"))
    assert {name_of(0), name_of(9)}.isdisjoint(exams["folder"])
    assert f"no mask shows the cancer: {name_of(9)}" in caplog.text
    assert f"the marksheet denies: {name_of(0)}" in caplog.text


def test_everything_wrong_is_told_at_once(download, tmp_path, refused):
    sheet = pd.read_csv(download / "picai_labels" / "clinical_information" / "marksheet.csv", dtype=str)
    sheet.loc[0, "case_csPCa"] = "perhaps"
    sheet.loc[1, "psa"] = "high"
    sheet.to_csv(tmp_path / "marksheet.csv", index=False)
    with refused(f"(?s){name_of(0)} +case_csPCa is neither.*{name_of(1)} +psa is 'high'"):
        run(download, tmp_path / "out", marksheet=str(tmp_path / "marksheet.csv"))
    sheet.drop(columns="center").to_csv(tmp_path / "marksheet.csv", index=False)
    with refused("has no column center"):
        run(download, tmp_path / "out", marksheet=str(tmp_path / "marksheet.csv"))
    with refused("--wordings"):
        run(download, tmp_path / "out", wordings=0)
    with refused("no exam of UMCG; choose among PCNN, RUMC, ZGT"):
        run(download, tmp_path / "out", test_centres=["UMCG"])
    assert not (tmp_path / "out").exists()


def test_exams_of_another_import_are_not_mixed_in(download, tmp_path, refused):
    (tmp_path / "images" / "stranger").mkdir(parents=True)
    with refused("already holds 'stranger'"):
        run(download, tmp_path)

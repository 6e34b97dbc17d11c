"""PROSTATEx's folders and tables, as they are downloaded and made of phantoms here."""

from __future__ import annotations

import pandas as pd
import pytest

from public_downloads import write_series
from scripts.data.datalists import is_positive, read_datalist
from scripts.data.nifti import save_nifti
from scripts.evaluation.adherence import read_truth
from scripts.prepare import prepare
from scripts.public.prostatex import prostatex

SERIES = (  # what it is called, description, volume, number
    ("t2_tse_sag0", "t2_tse_sag", "axt2", 3),
    ("t2_tse_tra0", "t2_tse_tra", "axt2", 5),
    ("t2_tse_tra0", "t2_tse_tra", "axt2", 9),  # taken again
    ("ep2d_diff_tra_DYNDIST_ADC0", "ep2d_diff_tra_DYNDIST_ADC", "adc", 7),
    ("ep2d_diff_tra_DYNDISTCALC_BVAL0", "ep2d_diff_tra_DYNDISTCALC_BVAL", "b1600", 8),
)


def name_of(number):
    return f"ProstateX-{number:04d}"


@pytest.fixture(scope="session")
def download(tmp_path_factory, phantoms):
    root = tmp_path_factory.mktemp("prostatex")
    findings, images = [], []
    for number, phantom in enumerate([*phantoms[:4], phantoms[-1]]):
        name, lesions = name_of(number), phantom.findings.lesions
        points = [(lesion.zone, lesion.centre_mm, "TRUE") for lesion in lesions] or [("AS", (0.0, 9.0, 0.0), "FALSE")]
        for fid, (zone, (x, y, z), significant) in enumerate(points, start=1):
            findings.append((name, fid, f"{-x:.4f} {-y:.4f} {z:.4f}", zone, significant))
        size, spacing = phantom.volumes["axt2"].shape, phantom.affine.diagonal()[:3]
        x, y, z = phantom.affine[:3, 3] + spacing * (size[0] - 1, size[1] - 1, 0)
        matrix = f"{spacing[0]},0,0,{-x},0,{spacing[1]},0,{-y},0,0,{spacing[2]},{z},0,0,0,1"
        for called, description, volume, order in SERIES:
            uid = f"1.2.3.{number + 1}.{order}"
            folder = root / "PROSTATEx" / name / "07-07-2011-NA-MR prostaat-24505" / f"{order}.000000-{description}-1"
            write_series(
                folder, phantom.volumes[volume], phantom.affine, uid,
                study=f"1.2.3.{number + 1}", patient=name, number=order, description=description,
            )  # fmt: skip
            dim = "x".join(map(str, (*size, 1)))
            images += [(name, called, fid, matrix, dim, uid, order) for fid in range(1, len(points) + 1)]
    columns = ["ProxID", "Name", "fid", "WorldMatrix", "Dim", "DCMSerUID", "DCMSerNum"]
    pd.DataFrame(images, columns=columns).to_csv(root / "ProstateX-Images-Train.csv", index=False)
    columns = ["ProxID", "fid", "pos", "zone", "ClinSig"]
    findings += [("ProstateX-0099", 1, "1 2 3", "PZ", "FALSE")]
    pd.DataFrame(findings, columns=columns).to_csv(root / "ProstateX-Findings-Train.csv", index=False)
    for number, phantom in enumerate(phantoms[:4]):
        save_nifti(root / "glands" / f"{name_of(number)}.nii.gz", phantom.masks["gland"], phantom.affine)
    return root


def run(download, output, findings="ProstateX-Findings-Train.csv", **options):
    tables = (str(download / findings), str(download / "ProstateX-Images-Train.csv"))
    prostatex(str(download / "PROSTATEx"), *tables, str(output), **options)
    return pd.read_csv(output / "exams.csv", dtype=str, keep_default_na=False).set_index("folder")


def test_points_become_findings_as_far_as_they_go(download, phantoms, tmp_path, caplog):
    exams = run(download, tmp_path)
    truth = read_truth(tmp_path)
    assert list(exams.index) == [name_of(number) for number in range(5)]
    assert list(exams["isup"]) == ["2"] * 4 + ["0"]
    for number, phantom in enumerate(phantoms[:4]):
        lesion, expected = truth[name_of(number)].lesion, phantom.findings.lesions[0]
        near = abs(expected.centre_mm[0]) < 5  # to the middle of the image, which the prostate may lie beside
        assert (lesion.zone, lesion.side) == (expected.zone, None if near else expected.side)
        assert (lesion.level, lesion.diameter_mm, lesion.isup) == (None, None, None)
        assert lesion.centre_mm == pytest.approx(expected.centre_mm, abs=1e-3)
        assert exams["report"].iloc[number]
    assert truth[name_of(4)].lesion is None
    assert "whose T2w is not there: ProstateX-0099" in caplog.text
    files = sorted((tmp_path / "images" / name_of(0) / "t2w").iterdir())
    assert len(files) == 24
    assert files[0].samefile(next((download / "PROSTATEx" / name_of(0)).glob("*/9.*/1-01.dcm")))  # the later of two


def test_with_masks_of_the_prostate_side_and_level_are_known(download, phantoms, tmp_path):
    exams = run(download, tmp_path, glands_dir=str(download / "glands"))
    truth = read_truth(tmp_path)
    for number, phantom in enumerate(phantoms[:4]):
        lesion, expected = truth[name_of(number)].lesion, phantom.findings.lesions[0]
        assert (lesion.zone, lesion.side, lesion.level) == (expected.zone, expected.side, expected.level)
        assert float(exams["gland_ml"].iloc[number]) == pytest.approx(phantom.findings.gland_ml, rel=0.02)
    assert exams["gland_ml"].iloc[4] == ""


def test_prepare_takes_it(download, tmp_path):
    exams = run(download, tmp_path, test_centres=["RUMC"], wordings=1)
    prepare(
        str(tmp_path / "exams.csv"), str(tmp_path / "images"), str(tmp_path), t2w="t2w", adc="adc", dwi="dwi",
        isup_column="isup", patient_column="patient", split_column="split", size=(16, 16, 8), spacing=(4, 4, 6),
    )  # fmt: skip
    cases = read_datalist(tmp_path / "test.json", tmp_path, keys=("axt2", "adc", "b1600"))
    assert read_datalist(tmp_path / "train.json", tmp_path) == []
    assert [case["text"] for case in cases] == list(exams["report"])
    assert [is_positive(case) for case in cases] == [True] * 4 + [False]


def change(download, name, **cells):
    table = pd.read_csv(download / "ProstateX-Findings-Train.csv", dtype=str)
    table.loc[0, list(cells)] = list(cells.values())
    table.to_csv(download / name, index=False)


def test_the_seminal_vesicles_are_no_part_of_the_prostate(download, tmp_path, caplog):
    change(download, "sv.csv", zone="SV")
    assert name_of(0) not in run(download, tmp_path, "sv.csv").index
    assert "is in the seminal vesicles: ProstateX-0000" in caplog.text


def test_what_is_wrong_is_told(download, tmp_path, refused):
    change(download, "wrong.csv", ClinSig="maybe")
    with refused("ProstateX-0000 +ClinSig is neither TRUE nor FALSE"):
        run(download, tmp_path, "wrong.csv")
    change(download, "wrong.csv", pos="25.7 31.9")
    with refused("ProstateX-0000 +pos does not hold 3 numbers"):
        run(download, tmp_path, "wrong.csv")
    with refused("holds no DICOM series"):
        prostatex(str(tmp_path), *[str(download / f"ProstateX-{n}-Train.csv") for n in ("Findings", "Images")], "out")

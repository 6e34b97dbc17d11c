"""UCLA's folders, table and surfaces, as they are downloaded and made of phantoms here."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from public_downloads import write_series, write_stl
from scripts.data.datalists import is_positive, read_datalist
from scripts.evaluation.adherence import read_truth
from scripts.prepare import prepare
from scripts.public.ucla import ucla

SERIES = (  # description, volume, number
    ("t2_spc_rst_axial obl_Prostate", "axt2", 11),
    ("ep2d-advdiff-3Scan-4bval_spair_std_ADC", "adc", 5),
    ("ep2d-advdiff-3Scan-4bval_spair_std_CALC_BVAL", "b1600", 7),
)
SCORE = "UCLA Score (Similar to PIRADS v2)"


def patient_of(number):
    return f"Prostate-MRI-US-Biopsy-{number + 1:04d}"


@pytest.fixture(scope="session")
def chosen(phantoms):
    return [*phantoms[:2], *phantoms[6:8], phantoms[-1]]


@pytest.fixture(scope="session")
def download(tmp_path_factory, chosen):
    """One lesion, one lesion, two, two, none; the targets' numbers in the files say nothing about the table's rows."""
    root = tmp_path_factory.mktemp("ucla")
    rows = []
    for number, phantom in enumerate(chosen):
        patient, study = patient_of(number), f"1.9.{number + 1}"
        for description, volume, order in SERIES:
            folder = root / "Prostate-MRI-US-Biopsy" / patient / "01-02-2009-NA-MRI-1" / f"{order}.000000-{order}"
            write_series(
                folder, phantom.volumes[volume], phantom.affine, f"{study}.{order}",
                study=study, patient=patient, number=order, description=description,
            )  # fmt: skip
        end = f"seriesUID-{study}.11.STL"
        stl = root / "STLs" / "STLs"
        write_stl(stl / f"{patient}-ProstateSurface-{end}", phantom.masks["gland"], phantom.affine)
        for lesion, truth in enumerate(phantom.findings.lesions, start=1):
            mask = phantom.masks["lesions"] == lesion
            write_stl(stl / f"{patient}-Target{9 - lesion}-{end}", mask, phantom.affine)
            millilitres = round(float(mask.sum() * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000), 2)
            rows.append((patient, f"{study}.11", f"{study}.99", millilitres, truth.pirads))
    write_stl(stl / f"{patient_of(0)}-ProstateSurface-seriesUID-1.9.1.99.STL", chosen[0].masks["gland"], np.eye(4))
    columns = ["Patient ID", "seriesInstanceUID_MR", "seriesInstanceUID_US", "ROI Volume (cc)", SCORE]
    pd.DataFrame(rows, columns=columns).to_excel(root / "Target Data_2019-12-05.xlsx", index=False)
    return root


def run(download, output, targets="Target Data_2019-12-05.xlsx", **options):
    ucla(str(download), str(download / "STLs"), str(download / targets), str(output), **options)
    return pd.read_csv(output / "exams.csv", dtype=str, keep_default_na=False).set_index("folder")


def test_surfaces_say_what_the_phantoms_truth_says(download, chosen, tmp_path, caplog):
    exams = run(download, tmp_path)
    lesions = pd.read_csv(tmp_path / "lesions.csv")
    assert list(exams.index) == [f"{patient_of(number)}_1" for number in range(5)]
    for number, phantom in enumerate(chosen):
        row, expected = exams.iloc[number], phantom.findings
        assert row["pirads"] == str(max((lesion.pirads for lesion in expected.lesions), default=2))
        assert float(row["gland_ml"]) == pytest.approx(expected.gland_ml, rel=0.03)
        found = lesions[lesions["folder"] == f"{patient_of(number)}_1"]
        assert len(found) == len(expected.lesions)
        for one, lesion in zip(found.itertuples(), expected.lesions, strict=True):
            assert (one.side, one.level, one.pirads) == (lesion.side, lesion.level, lesion.pirads)
            assert pd.isna(one.zone)
            assert one.diameter_mm == pytest.approx(lesion.diameter_mm, abs=2.5)
            assert (one.x_mm, one.y_mm, one.z_mm) == pytest.approx(lesion.centre_mm, abs=2.5)
    assert "most are of ultrasound): Prostate-MRI-US-Biopsy-0001" in caplog.text


def test_prepare_takes_it_with_the_prostate_in_the_middle(download, chosen, tmp_path):
    exams = run(download, tmp_path, wordings=1)
    assert "split" not in exams
    prepare(
        str(tmp_path / "exams.csv"), str(tmp_path / "images"), str(tmp_path), t2w="t2w", adc="adc", dwi="dwi",
        pirads_column="pirads", patient_column="patient", centre_columns=("x", "y", "z"), centre_world="ras",
        size=(16, 16, 8), spacing=(4, 4, 6),
    )  # fmt: skip
    cases = [case for name in ("train", "test") for case in read_datalist(tmp_path / f"{name}.json", tmp_path)]
    assert {case["folder"]: is_positive(case) for case in cases} == {
        f"{patient_of(number)}_1": bool(phantom.findings.lesions) for number, phantom in enumerate(chosen)
    }
    truth = read_truth(tmp_path)
    assert truth[f"{patient_of(0)}_1"].lesion.level == chosen[0].findings.lesions[0].level


def change(download, name, **cells):
    table = pd.read_excel(download / "Target Data_2019-12-05.xlsx", dtype=object)
    table.loc[0, list(cells)] = list(cells.values())
    table.to_excel(download / name, index=False)


def test_a_target_that_no_row_fits_has_no_score(download, tmp_path, caplog):
    table = pd.read_excel(download / "Target Data_2019-12-05.xlsx", dtype=object)
    table.loc[[2, 3], "ROI Volume (cc)"] = [table.loc[2, "ROI Volume (cc)"], 40.0]
    table.to_excel(download / "other.xlsx", index=False)
    run(download, tmp_path, "other.xlsx")
    lesions = pd.read_csv(tmp_path / "lesions.csv")
    assert lesions[lesions["folder"] == f"{patient_of(2)}_1"]["pirads"].isna().tolist() == [False, True]
    change(download, "other.xlsx", **{SCORE: None})
    assert f"{patient_of(0)}_1" not in run(download, tmp_path / "again", "other.xlsx").index
    assert f"no target has a score of 1 to 5: {patient_of(0)}_1" in caplog.text


def test_what_is_wrong_is_told(download, tmp_path, refused):
    change(download, "wrong.xlsx", **{SCORE: "high"})
    with refused("UCLA Score .* is 'high'"):
        run(download, tmp_path, "wrong.xlsx")
    pd.DataFrame({"Patient ID": ["a"]}).to_excel(download / "wrong.xlsx")
    with refused("has no column seriesInstanceUID_MR"):
        run(download, tmp_path, "wrong.xlsx")
    with refused("holds no ...-ProstateSurface-seriesUID"):
        ucla(str(download), str(tmp_path), str(download / "Target Data_2019-12-05.xlsx"), str(tmp_path / "out"))

"""prepare, from a table and folders of exams to a data root, and every way in which the input can be wrong."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from scripts.cli.run import run
from scripts.common.problems import UserError
from scripts.data.clinical import read_clinical, sheet_labels
from scripts.data.datalists import is_positive, read_datalist
from scripts.data.root import read_splits
from scripts.prepare import prepare
from small_exams import (
    COLUMNS,
    GRID,
    POINT,
    ROWS,
    SECRET,
    blob,
    call,
    in_unit,
    refused,
    save,
    write_table,
)


def centroid(path):
    """Centre of mass of what is bright, in RAS world mm."""
    image = nib.load(path)
    values = image.get_fdata()
    weights = np.where(values > values.max() / 4, values, 0)
    points = nib.affines.apply_affine(image.affine, np.moveaxis(np.indices(values.shape), 0, -1))
    return (points * weights[..., None]).sum((0, 1, 2)) / weights.sum()


# ---- what comes out --------------------------------------------------------------------------------------------------


def test_a_point_stays_where_it_is_in_the_world_in_every_sequence(exams):
    call(exams)
    for sequence in ("axt2", "adc", "b1600"):
        path = exams / "out" / "001" / f"{sequence}.nii.gz"
        image = nib.load(path)
        assert image.shape == GRID["size"]
        assert image.get_data_dtype() == np.int16
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        np.testing.assert_allclose(image.header.get_zooms(), GRID["spacing"], atol=1e-5)
        np.testing.assert_allclose(centroid(path), POINT, atol=0.4)


def test_the_data_root_is_complete_and_sound(exams, caplog):
    with caplog.at_level(logging.INFO):
        call(exams)
    train, test = read_splits(exams / "out", keys=("axt2", "adc", "b1600"))
    cases = {case["folder"]: case for case in train + test}
    assert sorted(cases) == [row[0] for row in ROWS]
    assert {folder for folder, case in cases.items() if is_positive(case)} == {"001", "005", "006"}
    assert cases["001"]["text"] == SECRET
    assert (cases["002"]["text"], cases["002"]["text_isnull"]) == ("", 1)
    assert cases["003"]["spacing"] == list(GRID["spacing"])
    assert sheet_labels(read_clinical(exams / "out" / "clinical.xlsx")).to_dict() == {
        folder: is_positive(case) for folder, case in cases.items()
    }
    assert "1 without a report" in caplog.text
    assert SECRET not in caplog.text


def test_the_same_call_gives_the_same_bytes_and_the_order_of_rows_does_not_matter(exams):
    call(exams)
    names = ("train.json", "test.json", "001/axt2.nii.gz")
    first = [(exams / "out" / name).read_bytes() for name in names]
    write_table(exams, ROWS[::-1])
    shutil.rmtree(exams / "out")
    call(exams)
    assert [(exams / "out" / name).read_bytes() for name in names] == first


def test_lists_come_last_and_old_ones_go_first(exams, monkeypatch):
    call(exams)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("scripts.exams.finished.save_int16", full_disk)
    with pytest.raises(OSError, match="No space"):
        call(exams, spacing=(1.5, 1.5, 2.5))
    assert not [name for name in ("train.json", "test.json", "clinical.xlsx") if (exams / "out" / name).exists()]


def test_a_new_split_leaves_no_merged_list_of_the_old_one(exams):
    call(exams)
    for name in ("train", "test"):  # as embedding the reports leaves them
        (exams / "out" / f"{name}_merged.json").write_bytes((exams / "out" / f"{name}.json").read_bytes())
    call(exams, seed=1)
    assert not list((exams / "out").glob("*_merged.json"))


def test_without_diffusion_and_with_a_given_centre(exams):
    rows = [(*row, *(-POINT[:2]), POINT[2]) for row in ROWS]
    table = exams / "table.xlsx"
    pd.DataFrame(rows, columns=["folder", "report", "pirads", "patient", "x", "y", "z"]).to_excel(table, index=False)
    call(exams, table=str(table), adc=None, dwi=None, centre_columns=("x", "y", "z"), centre_world="lps")
    image = nib.load(exams / "out" / "001" / "axt2.nii.gz")
    middle = nib.affines.apply_affine(image.affine, (np.asarray(image.shape) - 1) / 2)
    np.testing.assert_allclose(middle, POINT, atol=1e-4)
    assert not (exams / "out" / "001" / "adc.nii.gz").exists()
    assert "adc" not in read_datalist(exams / "out" / "train.json", exams / "out")[0]


def test_the_unit_of_adc_is_recognised_in_each_exam_and_told(exams, caplog):
    in_unit(exams, "002", 1e-3)
    in_unit(exams, "003", 1.0)
    call(exams)
    for folder in ("001", "002", "003"):
        assert 2200 < nib.load(exams / "out" / folder / "adc.nii.gz").get_fdata().max() < 2500
    assert "ADC maps in 0.001 mm²/s, 1: 002" in caplog.text


def test_an_adc_map_that_is_0_outside_a_mask_is_in_the_right_unit(exams, caplog):
    image = nib.load(exams / "exams" / "002" / "adc.nii.gz")
    values = np.where(image.get_fdata() > 1500, image.get_fdata(), 0)
    assert 0 < (values > 0).mean() < 0.01
    save(exams / "exams" / "002" / "adc.nii.gz", values, image.affine)
    call(exams, adc_unit=1e-6)
    assert "002: adc" not in caplog.text


def test_adc_in_another_unit_than_the_given_one_is_refused(exams):
    in_unit(exams, "002", 1e-3)
    message = refused(exams, "002 adc is 0.63e-6 mm²/s", "not a plausible unit", "--adc_unit", adc_unit=1e-6)
    assert message.startswith("prepare: 1 problem")


def test_values_that_are_no_adc_in_any_unit_are_refused(exams):
    in_unit(exams, "003", 20e-6)  # the values of a high b-value
    refused(exams, "003 adc (adc.nii.gz) has 31.5", "not the DWI")


def test_the_unit_of_an_adc_map_may_stand_in_the_table(exams):
    in_unit(exams, "002", 1e-3)
    table = pd.read_csv(exams / "table.csv", dtype=str)
    table.assign(unit=["µm²/s", "10^-3 mm²/s", "", "1e-6", "", ""]).to_csv(exams / "table.csv", index=False)
    call(exams, adc_unit_column="unit")
    assert 2200 < nib.load(exams / "out" / "002" / "adc.nii.gz").get_fdata().max() < 2500
    table.assign(unit=["mm²/s", "um2/s", "furlong", "", "", ""]).to_csv(exams / "table.csv", index=False)
    shutil.rmtree(exams / "out")
    refused(
        exams, "001 adc is 6.3e+08e-6 mm²/s", "002 adc is 0.6", "003 the unit of the ADC map is 'furlong'",
        "give another unit in the table", adc_unit_column="unit",
    )  # fmt: skip


def test_isup_is_the_label_where_pirads_is_empty(exams):
    rows = [("001", "", "", "0"), ("002", "", "", "2"), ("003", "", "2", "5"), ("004", "", "3", "")]
    pd.DataFrame(rows, columns=["folder", "report", "pirads", "isup"]).to_csv(exams / "table.csv", index=False)
    call(exams, isup_column="isup", patient_column=None, leave_out_unmatched=True)
    train, test = read_splits(exams / "out")
    assert {case["folder"] for case in train + test if is_positive(case)} == {"002", "004"}
    frame = read_clinical(exams / "out" / "clinical.xlsx").set_index("folder")
    assert frame["PosISUP"].astype(object).where(frame["PosISUP"].notna(), None).to_dict() == {
        "001": 0, "002": 1, "003": 1, "004": None,
    }  # fmt: skip


def test_a_t2w_that_covers_little_of_the_grid_is_told(exams, caplog):
    with caplog.at_level(logging.WARNING):
        call(exams, spacing=(3.0, 3.0, 4.0))
    assert "001: the T2w covers only" in caplog.text


def test_rows_and_folders_without_each_other_are_left_out_and_told_where_asked(exams, caplog):
    write_table(exams, [*ROWS[1:], ("007", SECRET, "4", "F")])
    with caplog.at_level(logging.WARNING):
        call(exams, leave_out_unmatched=True)
    assert "left out, because folder or row is missing: table.csv row 7, 001" in caplog.text
    train, test = read_splits(exams / "out")
    assert {case["folder"] for case in train + test} == {"002", "003", "004", "005", "006"}
    assert sorted(path.name for path in (exams / "out").iterdir() if path.is_dir()) == [row[0] for row in ROWS[1:]]


def test_an_adc_map_of_which_little_lies_on_the_grid_is_told_by_figure(exams, caplog):
    image = nib.load(exams / "exams" / "002" / "adc.nii.gz")
    away = image.affine.copy()
    away[:3, 3] += 30 * away[:3, 2] / np.linalg.norm(away[:3, 2])
    save(exams / "exams" / "002" / "adc.nii.gz", image.get_fdata(), away)
    call(exams)
    (told,) = [record.message for record in caplog.records if "002: the ADC map covers only" in record.message]
    assert 0 < int(told.split("only ")[1].split(" %")[0]) < 40


def test_one_image_given_as_two_is_refused_under_any_name(exams):
    for other in ("b1600.nii.gz", "t2.nii.gz"):
        copy = exams / "exams" / "002" / "adc.nii.gz"
        copy.write_bytes((exams / "exams" / "002" / other).read_bytes())
        refused(exams, "are one and the same image", other)
    refused(exams, "003 b1600 and adc are one and the same image (adc.nii.gz and adc.nii.gz)", dwi="adc*")


def test_an_adc_map_that_is_a_dwi_is_told(exams, caplog):
    """Bright where the DWI is; a true map is dark where diffusion is restricted, and where the DWI is bright."""
    for folder, *_ in ROWS:
        image = nib.load(exams / "exams" / folder / "adc.nii.gz")
        values = image.get_fdata()
        if folder != "002":
            values = np.where(values > 1, 3000 - values, 0)
        save(exams / "exams" / folder / "adc.nii.gz", values, image.affine)
    call(exams)
    told = [record.message for record in caplog.records if "is it a DWI?" in record.message]
    assert len(told) == 1
    assert told[0].startswith("002: the ADC map is bright where the DWI is (correlation 1.00)")


def test_one_t2w_in_several_exams_is_told(exams, caplog):
    image = nib.load(exams / "exams" / "003" / "t2.nii.gz")
    save(exams / "exams" / "003" / "t2.nii.gz", image.get_fdata() + 1, image.affine)
    call(exams)
    assert "one and the same image, are they one exam? 001, 002, 004, 005, 006" in caplog.text


def test_one_volume_of_a_4d_file_is_chosen_by_its_number(exams):
    for folder, *_ in ROWS:
        path = exams / "exams" / folder / "b1600.nii.gz"
        image = nib.load(path)
        save(path, np.stack([image.get_fdata() * 3, image.get_fdata()], axis=-1), image.affine)
    message = refused(exams, "001 b1600 (b1600.nii.gz) is no 3D image but holds 2 volumes", "--volume")
    assert message.startswith("prepare: 6 problems")
    call(exams, volume=2)
    assert 90 < nib.load(exams / "out" / "001" / "b1600.nii.gz").get_fdata().max() < 115


def test_an_exam_withdrawn_from_the_table_is_told_and_removed_on_request(exams, caplog):
    call(exams)
    kept = exams / "out" / "002" / "notes.txt"
    kept.write_text("not ours")
    write_table(exams, ROWS[2:])
    call(exams, leave_out_unmatched=True)
    assert "are still in" in caplog.text
    assert "001, 002; --remove_withdrawn removes them" in caplog.text
    assert (exams / "out" / "001" / "axt2.nii.gz").is_file()
    call(exams, leave_out_unmatched=True, remove_withdrawn=True)
    assert not (exams / "out" / "001").exists()
    assert [path.name for path in kept.parent.iterdir()] == ["notes.txt"]
    assert (exams / "out" / "003" / "axt2.nii.gz").is_file()
    caplog.clear()
    call(exams, leave_out_unmatched=True)
    assert "are still in" not in caplog.text


def test_a_sequence_left_out_of_a_later_run_is_told(exams, caplog):
    call(exams)
    call(exams, dwi=None)
    assert "are still in" in caplog.text


def test_the_languages_of_reports_are_counted(exams, caplog):
    write_table(
        exams, [*ROWS[:4], ("005", "前列腺左侧外周带病灶", "5", "D"), ("006", "Läsion in der Zone links", "3", "E")]
    )
    with caplog.at_level(logging.INFO):
        call(exams)
    assert "reports by language, as guessed: 3 English, 1 Chinese, 1 German" in caplog.text


def test_a_link_out_of_the_exam_is_told_as_that(exams, tmp_path_factory):
    path = exams / "exams" / "002" / "t2.nii.gz"
    target = path.rename(tmp_path_factory.mktemp("store") / "t2.nii.gz")
    path.symlink_to(target)
    refused(exams, "002 axt2: t2.nii.gz is a link that leads out of the exam's folder", "put the file itself there")


def test_studies_below_a_patients_folder_are_told_as_that(exams):
    study = exams / "exams" / "002" / "2019"
    study.mkdir()
    for path in list((exams / "exams" / "002").glob("*.nii.gz")):
        path.rename(study / path.name)
    refused(
        exams,
        "002 axt2: nothing fits t2.nii.gz in the folder itself, but in 2019 below it",
        "--tree patient/study",
    )


def test_an_exam_that_may_not_be_read_is_told(exams, monkeypatch):
    scandir = os.scandir

    def forbidden(path):
        if Path(path).name == "002":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", forbidden)
    refused(exams, "002 axt2: its folder cannot be read: Permission denied")


def test_the_command_line_takes_lists_and_patterns_as_typed(exams):
    run(
        prepare,
        f"--table {exams}/table.csv --images_dir {exams}/exams --output_dir {exams}/out --t2w t2.nii.gz "
        "--size 24,24,16 --spacing 1.5,1.5,2.0 --pirads_column pirads --institute 7".split(),
    )
    train, _ = read_splits(exams / "out")
    assert train[0]["dataset"] == "7"


def test_the_command_line_fails_with_a_message_and_status_1(exams, capsys):
    (exams / "exams" / "003" / "t2.nii.gz").unlink()
    with pytest.raises(SystemExit) as caught:
        run(
            prepare,
            f"--table {exams}/table.csv --images_dir {exams}/exams --output_dir {exams}/out --t2w t2.nii.gz "
            "--size 24,24,16 --spacing 1.5,1.5,2.0 --pirads_column pirads".split(),
        )
    assert caught.value.code == 1
    assert "003" in capsys.readouterr().err
    assert not (exams / "out").exists()


# ---- bad input -------------------------------------------------------------------------------------------------------


def with_columns(root, splits, institutes):
    table = pd.read_csv(root / "table.csv", dtype=str, keep_default_na=False)
    table.assign(list=splits, hospital=institutes).to_csv(root / "table.csv", index=False)
    return {"split_column": "list", "institute_column": "hospital"}


def test_the_table_may_say_the_split_and_where_each_exam_is_from(exams):
    options = with_columns(exams, ["test"] * 3 + ["train"] * 3, ["North"] * 3 + ["South"] * 3)
    call(exams, **options, test_fraction=0)
    train, test = read_splits(exams / "out")
    assert [(case["folder"], case["dataset"]) for case in test] == [(f"00{n}", "North") for n in (1, 2, 3)]
    assert [(case["folder"], case["dataset"]) for case in train] == [(f"00{n}", "South") for n in (4, 5, 6)]


def test_a_split_that_is_none_or_parts_a_patient_is_refused(exams):
    options = with_columns(exams, ["test", "train", "train", "Test", "train", ""], ["North"] * 5 + [""])
    refused(
        exams, "patient A has exams in both train and test", "004 the split is 'Test'",
        "006 the split is None", "006 the institute is None", **options,
    )  # fmt: skip


def test_all_problems_come_in_one_table_before_anything_is_written(exams):
    folder = exams / "exams"
    (folder / "001" / "t2.nii.gz").unlink()
    (folder / "002" / "b800.nii.gz").write_bytes((folder / "002" / "b1600.nii.gz").read_bytes())
    broken = folder / "003" / "adc.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-200])
    affine = nib.load(folder / "004" / "t2.nii.gz").affine
    save(folder / "004" / "t2.nii.gz", np.full((36, 36, 14), np.nan), affine)
    save(folder / "005" / "t2.nii.gz", np.full((36, 36, 14), 5.0), affine)
    save(folder / "006" / "t2.nii.gz", np.zeros((36, 36)), affine)
    write_table(exams, [*ROWS, ("007", "", "3", "F"), ("006", "", "6", ""), ("../001", "", "", "G")])
    message = refused(
        exams,
        "001 axt2: nothing fits t2.nii.gz",
        "002 b1600: b*.nii.gz fits 2: b1600.nii.gz, b800.nii.gz",
        "003 adc (adc.nii.gz) is damaged or cut short",
        "004 axt2 (t2.nii.gz) holds NaN",
        "005 axt2 (t2.nii.gz) is constant (5)",
        "006 axt2 (t2.nii.gz) has shape (36, 36)",
        "table.csv row 8 has no folder: '007'",
        "006 pirads is '6'",
        "006 patient is None",
        "006 has 2 rows",
        "table.csv row 10 folder '../001' is no folder's name",
        "table.csv row 10 has neither PI-RADS nor ISUP",
    )
    assert message.startswith("prepare: ")


def test_a_row_without_a_folder_and_a_folder_without_a_row_are_refused(exams):
    write_table(exams, [*ROWS[1:], ("007", SECRET, "4", "F")])
    message = refused(exams, "table.csv row 7 has no folder: '007' is not in images_dir", "001 has no row in the table")
    assert message.startswith("prepare: 2 problems")


def test_a_table_that_fits_no_folder_is_refused_though_the_rest_is_left_out(exams):
    write_table(exams, [("007", SECRET, "4", "F")])
    refused(exams, "no row names a folder of images_dir", leave_out_unmatched=True)


def with_cells(root, cells):
    """An Excel table whose folders are these cells, with the type that they have."""
    rows = [(cell, *row[1:]) for cell, row in zip(cells, ROWS, strict=False)]
    pd.DataFrame(rows, columns=["folder", "report", "pirads", "patient"]).to_excel(root / "table.xlsx", index=False)
    return str(root / "table.xlsx")


def test_leading_zeros_lost_in_excel_are_refused(exams):
    message = refused(
        exams, "table.xlsx row 2 folder is 1, there is 001", "leading zeros", table=with_cells(exams, range(1, 7))
    )
    assert message.startswith("prepare: 6 problems")  # and the six folders are not told as folders without a row


@pytest.mark.parametrize(("cells", "leave_out"), [([1], True), ([1, "001"], False), (["001", "1", 1], True)])
def test_a_number_that_may_be_one_of_two_folders_is_refused(exams, cells, leave_out):
    (exams / "exams" / "001").rename(exams / "exams" / "1")
    (exams / "exams" / "002").rename(exams / "exams" / "001")
    refused(
        exams, f"table.xlsx row {2 + cells.index(1)} folder is 1, there is 001 and 1", "leading zeros",
        table=with_cells(exams, cells), leave_out_unmatched=leave_out,
    )  # fmt: skip


@pytest.mark.parametrize("leave_out", [False, True])
def test_text_names_the_folder_with_these_very_zeros(exams, leave_out):
    (exams / "exams" / "006").rename(exams / "exams" / "1")
    cells = ["1", "001", "002", "003", "004", "005"]
    call(exams, table=with_cells(exams, cells), leave_out_unmatched=leave_out)
    train, test = read_splits(exams / "out")
    assert {case["folder"] for case in train + test} == set(cells)
    assert next(case for case in train + test if case["folder"] == "1")["text"] == SECRET


def test_a_csv_that_went_through_excel_is_not_matched_to_another_folder(exams):
    """A CSV's 1 may have been 001: with both folders there, nothing is left out on the strength of it."""
    (exams / "exams" / "006").rename(exams / "exams" / "1")
    write_table(exams, [("1", *ROWS[0][1:]), *ROWS[1:5]])
    refused(exams, "001 has no row in the table, which has 1", "leading zeros", leave_out_unmatched=True)


def test_a_patient_with_lost_zeros_is_not_two_patients(exams):
    rows = [(*row[:3], patient) for row, patient in zip(ROWS, ["07", 7, "B", "C", "D", "E"], strict=True)]
    pd.DataFrame(rows, columns=["folder", "report", "pirads", "patient"]).to_excel(exams / "table.xlsx", index=False)
    refused(exams, "002 patient is '7', 001 has '07'", "leading zeros", table=str(exams / "table.xlsx"))


def with_patients(root, *patients):
    write_table(root, [(*row[:3], patient) for row, patient in zip(ROWS, patients, strict=True)])


def test_spaces_around_a_patient_do_not_make_another_one(exams):
    with_patients(exams, "A ", " A", "A", "C", "D", "E")
    call(exams)
    train, test = read_splits(exams / "out")
    patients = {case["folder"]: case["patient"] for case in train + test}
    assert patients == dict(zip(("001", "002", "003", "004", "005", "006"), "AAACDE", strict=True))
    assert {"001", "002", "003"} <= {case["folder"] for case in train} or {"001", "002", "003"} <= {
        case["folder"] for case in test
    }


def test_a_patient_in_small_and_capital_letters_is_refused(exams):
    with_patients(exams, "P01", "p01 ", "B", "C", "D", "p01")
    message = refused(exams, "002 patient is 'p01', 001 has 'P01'")
    assert message.startswith("prepare: 1 problem")


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("cell", ["001 ", " 001", "001\u00a0", "0\u200b01"])
def test_a_space_around_a_folder_is_told_as_that(exams, cell, leave_out):
    write_table(exams, [(cell, *ROWS[0][1:]), *ROWS[1:]])
    message = refused(
        exams, "table.csv row 2 folder '001' has a space or an invisible character", leave_out_unmatched=leave_out
    )
    assert message.startswith("prepare: 1 problem")


REPORT = "Zorv quil mexi bantu"  # as short as a name, and of words that stand nowhere else
NAMES = ["folder", "report", "pirads", "isup", "patient", "x", "y", "z"]
OPTIONS = (
    "--t2w t2.nii.gz --size 24,24,16 --spacing 1.5,1.5,2.0 --pirads_column pirads --isup_column isup "
    "--patient_column patient --centre_columns x,y,z --centre_world ras"
)


def quotes_nothing(root, capsys, caplog, *options):
    """prepare, as typed; no word of REPORT is in what it prints, logs or raises. Gives what it printed."""
    assert len(REPORT) == 20
    argv = [*OPTIONS.split(), "--table", f"{root}/table.csv", "--images_dir", f"{root}/exams"]
    with caplog.at_level(logging.DEBUG), pytest.raises(SystemExit) as caught:
        run(prepare, [*argv, "--output_dir", f"{root}/out", *options])
    printed = "".join(capsys.readouterr()) + caplog.text
    assert caught.value.code == 1
    assert not [word for word in REPORT.split() if word in printed], printed
    return " ".join(printed.split())


@pytest.mark.parametrize("column", [name for name in NAMES if name != "report"])
def test_a_short_report_in_the_wrong_column_is_not_quoted(exams, capsys, caplog, column):
    frame = pd.DataFrame([(row[0], REPORT, row[2], "", row[3], *POINT) for row in ROWS], columns=NAMES)
    frame = frame.astype(str)
    frame.loc[4, column] = REPORT
    frame.to_csv(exams / "table.csv", index=False)
    (exams / "exams" / "003" / "t2.nii.gz").unlink()  # so that a patient of any name is refused too
    printed = quotes_nothing(exams, capsys, caplog)
    if column in ("pirads", "isup"):
        assert f"005 {column} is text of 20 characters" in printed
    if column == "folder":
        assert "table.csv row 6 has no folder: text of 20 characters is not in images_dir" in printed


@pytest.mark.parametrize("option", ["folder_column", "pirads_column", "isup_column", "patient_column"])
def test_the_reports_column_given_for_another_is_refused_and_not_quoted(exams, capsys, caplog, option):
    frame = pd.DataFrame([(row[0], REPORT, row[2], "", row[3], *POINT) for row in ROWS], columns=NAMES)
    frame.to_csv(exams / "table.csv", index=False)
    printed = quotes_nothing(exams, capsys, caplog, f"--{option}", "report")
    assert "column 'report' is given for the report and the" in printed


def test_a_table_without_column_names_is_refused_without_quoting_its_first_row(exams, capsys, caplog):
    frame = pd.DataFrame([(row[0], REPORT, row[2], "0", row[3], *POINT) for row in ROWS], columns=NAMES)
    frame.to_csv(exams / "table.csv", index=False, header=False)
    assert "text of 20 characters" in quotes_nothing(exams, capsys, caplog)


def test_an_adc_somewhere_else_is_refused(exams):
    image = nib.load(exams / "exams" / "002" / "adc.nii.gz")
    away = image.affine.copy()
    away[0, 3] += 500
    save(exams / "exams" / "002" / "adc.nii.gz", image.get_fdata(), away)
    refused(exams, "002 adc (adc.nii.gz) does not reach the grid")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (24, 24, 16), "spacing": None}, ["--size and --spacing"]),
        ({"size": (24, 24, 15)}, ["--size", "4 divides"]),
        ({"size": (24, 24)}, ["--size"]),
        ({"spacing": (1, 1, 0)}, ["--spacing"]),
        ({"size": None, "spacing": None, "grid": "huge"}, ["--grid huge", "reference or demo"]),
        ({"pirads_column": None}, ["--pirads_column"]),
        ({"report_column": "findings"}, ["no column 'findings'", "'report'"]),
        ({"test_fraction": 1.0}, ["--test_fraction"]),
        ({"test_fraction": "a fifth"}, ["--test_fraction"]),
        ({"adc_unit": 0}, ["--adc_unit"]),
        ({"volume": 0}, ["--volume"]),
        ({"seed": "x"}, ["--seed"]),
        ({"centre_columns": ("x", "y")}, ["three columns"]),
        ({"centre_columns": ("x", "y", "z")}, ["--centre_world"]),
        ({"adc": "../002/adc.nii.gz"}, ["leaves the exam's folder"]),
        ({"adc": "/etc/hostname"}, ["leaves the exam's folder"]),
        ({"table": "none.csv"}, ["none.csv", "cannot be read"]),
    ],
)
def test_wrong_options_are_refused(exams, options, words):
    refused(exams, *words, **options)


def test_the_exams_themselves_are_never_written_into(exams):
    with pytest.raises(UserError, match="overwritten"):
        prepare(str(exams / "table.csv"), str(exams / "exams"), str(exams / "exams"), t2w="t2.nii.gz", **COLUMNS)
    assert sorted(path.name for path in (exams / "exams" / "001").iterdir()) == [
        "adc.nii.gz", "b1600.nii.gz", "t2.nii.gz",
    ]  # fmt: skip


# ---- series, planes and trees ----------------------------------------------------------------------------------------


def test_what_was_chosen_stands_in_a_table_that_can_be_given_back(exams):
    call(exams)
    table = pd.read_csv(exams / "out" / "series.csv", dtype={"folder": str})
    assert len(table) == 3 * len(ROWS)
    assert table.set_index(["folder", "image"]).loc[("001", "adc"), "path"] == "adc.nii.gz"
    table.loc[(table["folder"] == "001") & (table["image"] == "adc"), "path"] = "b1600.nii.gz"
    table.to_csv(exams / "mine.csv", index=False)
    with pytest.raises(UserError, match="in no plausible unit"):  # the DWI is read where the table says so
        call(exams, series=str(exams / "mine.csv"))
    table["folder"] = table["folder"].replace("001", "1")
    table.to_csv(exams / "mine.csv", index=False)
    with pytest.raises(UserError, match="folder '1' is no exam"):
        call(exams, series=str(exams / "mine.csv"))


def test_an_image_in_another_plane_is_refused_unless_asked_for(exams):
    sagittal = nib.load(exams / "exams" / "002" / "t2.nii.gz")
    turned = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]) @ sagittal.affine
    save(exams / "exams" / "002" / "t2.nii.gz", blob(sagittal.shape, turned, 900), turned)
    refused(exams, "002", "axt2 (t2.nii.gz) has slices at", "sagittal or coronal", "--any_plane")
    call(exams, any_plane=True)
    assert (exams / "out" / "002" / "axt2.nii.gz").is_file()


def test_studies_of_a_patient_stay_in_one_list(exams):
    for n, (folder, *_) in enumerate(ROWS):
        patient = exams / "exams" / f"p{n // 2}"
        patient.mkdir(exist_ok=True)
        (exams / "exams" / folder).rename(patient / folder)
    write_table(exams, [(f"p{n // 2}/{row[0]}", *row[1:]) for n, row in enumerate(ROWS)])
    refused(exams, "folder 'p0/001' is no folder's name", "--tree patient/study")
    call(exams, tree="patient/study", patient_column=None)
    train, test = read_splits(exams / "out")
    assert {case["folder"]: case["patient"] for case in train + test}["p0_001"] == "p0"
    assert not {case["patient"] for case in train} & {case["patient"] for case in test}

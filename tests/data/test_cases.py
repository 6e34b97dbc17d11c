"""Datalists and clinical sheets: what is accepted, what is refused, and that everything wrong is told at once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from scripts.common.problems import Problems, UserError
from scripts.data.clinical import check_sheet, read_clinical, sheet_labels, write_clinical
from scripts.data.datalists import check_headers, check_split, is_positive, one_hot, read_datalist, write_datalist
from scripts.data.root import MERGED, check_root, read_splits
from scripts.data.tables import read_table

SPACING = [1.5, 1.5, 2.0]
SECRET = "Lesion in the left apex"


def entry(folder, positive=False, **changes):
    case = {
        "axt2": f"./{folder}/axt2.nii.gz",
        "dataset": "Institute1",
        "folder": folder,
        "pirads": one_hot(positive),
        "spacing": SPACING,
        "text": SECRET,
        "text_isnull": 0,
    }
    return {key: value for key, value in (case | changes).items() if value is not None}


def sheet(*rows):
    return pd.DataFrame(rows, columns=["folder", "PosPIRADS", "PosISUP", "Label"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound data root: 0017 and b train, c tests."""
    for folder in ("0017", "b", "c"):
        (tmp_path / folder).mkdir()
        image = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.diag([*SPACING, 1]))
        nib.save(image, tmp_path / folder / "axt2.nii.gz")
    write_datalist(tmp_path / "train.json", [entry("0017", True), entry("b")])
    write_datalist(tmp_path / "test.json", [entry("c")])
    write_clinical(
        tmp_path / "clinical.xlsx", sheet(["0017", 1, None, "train"], ["b", 0, 1, "train"], ["c", None, 0, "negative"])
    )
    return tmp_path


def refused(call, *words):
    """The message of the UserError that `call` raises, white space made one; it has every word and no report."""
    with pytest.raises(UserError) as caught:
        call()
    message = " ".join(str(caught.value).split())
    for word in words:
        assert word in message, message
    assert SECRET not in message
    return message


def with_train(root, *entries):
    write_datalist(root / "train.json", entries)
    return lambda: read_datalist(root / "train.json", root)


def test_a_sound_root_is_read_with_absolute_paths_and_text_folders(root):
    train, test = read_splits(root)
    assert [case["folder"] for case in train + test] == ["0017", "b", "c"]
    assert [is_positive(case) for case in train + test] == [True, False, False]
    assert train[0]["axt2"] == str((root / "0017" / "axt2.nii.gz").resolve())
    assert train[0]["spacing"] == SPACING


def test_a_datalist_is_written_and_read_back_the_same_whatever_the_report(root):
    text = 'Zürich "quoted"\nsecond line\u2028third 前列腺'
    cases = [entry("b", text=text, b1600=None)]
    write_datalist(root / "train.json", cases)
    first = (root / "train.json").read_bytes()
    assert read_datalist(root / "train.json", root)[0]["text"] == text
    write_datalist(root / "train.json", cases)
    assert (root / "train.json").read_bytes() == first


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pirads": [1, 1]}, ["not one-hot", "[1, 0]"]),
        ({"pirads": [0.5, 0.5]}, ["not one-hot"]),
        ({"pirads": 4}, ["not one-hot"]),
        ({"pirads": None}, ["not one-hot"]),
        ({"spacing": [1.5, 1.5]}, ["three positive numbers"]),
        ({"spacing": [1.5, 1.5, 0]}, ["three positive numbers"]),
        ({"spacing": [1.5, 1.5, float("nan")]}, ["three positive numbers"]),
        ({"spacing": ["1", "1", "1"]}, ["three positive numbers"]),
        ({"spacing": [1.5, 1.5, 3.0]}, ["axt2", "has spacing 1.5×1.5×2 mm, declared is 1.5×1.5×3"]),
        ({"axt2": None}, ["no image axt2"]),
        ({"axt2": "./b/none.nii.gz"}, ["axt2", "is missing"]),
        ({"axt2": "../outside.nii.gz"}, ["leaves the data root"]),
        ({"axt2": "/etc/axt2.nii.gz"}, ["leaves the data root"]),
        ({"axt2": "/etc/hostname"}, ["axt2 is '/etc/hostname', not the path of a NIfTI image"]),
        ({"adc": "./b/adc.nii.gz"}, ["adc", "is missing"]),
        ({"text": 5}, ["text is missing or not text"]),
        ({"text_isnull": 2}, ["text_isnull"]),
        ({"patient": 12}, ["patient is not text"]),
    ],
)
def test_a_broken_entry_is_refused_by_its_folder(root, changes, words):
    refused(
        with_train(root, entry("b") | changes if None not in changes.values() else entry("b", **changes)), "b ", *words
    )


@pytest.mark.parametrize("folder", [17, None, "", "a/b", "..", "a\\b"])
def test_a_folder_must_be_one_plain_text_name(root, folder):
    refused(with_train(root, entry("b") | {"folder": folder}), "train.json[0]", "not a plain name")


def test_a_link_that_leads_out_of_the_root_is_refused(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "axt2.nii.gz"
    (root / "b" / "axt2.nii.gz").rename(outside)
    (root / "b" / "axt2.nii.gz").symlink_to(outside)
    refused(with_train(root, entry("b")), "b ", "leaves the data root")


def test_the_same_folder_twice_is_refused(root):
    refused(with_train(root, entry("b"), entry("b")), "b ", "listed 2 times")


def test_an_image_that_is_no_nifti_is_refused(root):
    (root / "b" / "axt2.nii.gz").write_bytes(b"not an image")
    refused(with_train(root, entry("b")), "b ", "cannot be read as NIfTI")


def save(root, folder, sequence="axt2", shape=(4, 4, 4), affine=None):
    affine = np.diag([*SPACING, 1]) if affine is None else affine
    image = nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), affine)
    nib.save(image, root / folder / f"{sequence}.nii.gz")


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((4, 4, 8), np.diag([*SPACING, 1])),
        ((4, 4, 4), np.diag([*SPACING, 1]) + 0.5 * np.eye(4, k=3)),  # moved by 0.5 mm
        ((4, 4, 4), nib.affines.from_matvec(Rotation.from_euler("z", 5, degrees=True).as_matrix() * SPACING)),
    ],
)
def test_sequences_of_a_case_on_different_grids_are_refused(root, shape, affine):
    save(root, "b", "adc", shape, affine)
    refused(with_train(root, entry("b", adc="./b/adc.nii.gz")), "b its sequences lie on different grids")


def test_sequences_whose_axes_are_stored_in_another_order_lie_on_one_grid(root):
    turned = nib.load(root / "b" / "axt2.nii.gz").as_reoriented(nib.orientations.axcodes2ornt(("S", "L", "P")))
    nib.save(turned, root / "b" / "adc.nii.gz")
    assert len(with_train(root, entry("0017"), entry("b", adc="./b/adc.nii.gz"))()) == 2


@pytest.mark.parametrize("folder", ["b", "c"])
def test_a_case_of_another_size_is_refused_in_either_list(root, folder):
    save(root, folder, shape=(4, 4, 8))
    message = refused(lambda: read_splits(root), f"{folder} has size 4×4×8, the others 4×4×4")
    assert message.startswith(f"{root}: 1 problem")


def test_a_size_that_the_network_does_not_divide_is_refused(root):
    cases = with_train(root, entry("b"))()
    problems = Problems("images")
    check_headers(cases, problems, factor=8)
    assert "b  axt2 (axt2.nii.gz) has size 4×4×4, not divisible by 8" in str(problems)


def test_an_image_that_does_not_say_where_it_lies_is_refused(root):
    path = root / "b" / "axt2.nii.gz"
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[312:328] = bytes(16)  # the header's srow_z
    path.write_bytes(gzip.compress(data))
    refused(with_train(root, entry("b")), "b axt2 (axt2.nii.gz) has no valid spacing or orientation")


def test_a_class_that_contradicts_the_sheet_is_refused(root):
    write_datalist(root / "train.json", [entry("0017", False), entry("b")])
    message = refused(
        lambda: read_splits(root), "0017 pirads is [1, 0] in the datalist, PosPIRADS 1 in the clinical sheet"
    )
    assert message.startswith(f"{root}: 1 problem")  # b is negative by PosPIRADS, though positive by PosISUP


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"text": "Lesion in the left apex", ]', ["not valid JSON at line 1"]),
        (b'{"text": "Lesion in the left apex"}', ["not a list"]),
        (b'["Lesion in the left apex"]', ["train.json[0]", "not a case"]),
        (b"[\xff\xfe]", ["not UTF-8"]),
    ],
)
def test_a_file_that_is_no_datalist_is_refused_without_quoting_it(root, content, words):
    (root / "train.json").write_bytes(content)
    refused(lambda: read_datalist(root / "train.json", root), *words)


def test_a_missing_datalist_says_where_it_belongs(root):
    refused(lambda: read_datalist(root / "none.json", root), "none.json", "put the datalist at")


def test_all_problems_of_a_root_are_told_at_once(root):
    write_datalist(root / "train.json", [entry("0017", pirads=[1, 1]), entry("b", spacing=[0, 1, 1])])
    write_datalist(root / "test.json", [entry("b"), entry("c", axt2="../x.nii.gz")])
    write_clinical(root / "clinical.xlsx", sheet(["0017", None, None, "train"], ["d", 2, None, "maybe"]))
    message = refused(
        lambda: read_splits(root),
        "not one-hot",
        "three positive numbers",
        "leaves the data root",
        "b is in both train and test",
        "both empty",
        "PosPIRADS is 2",
        "Label is 'maybe'",
        "d is in the clinical sheet but in no datalist",
        "c has no row",
    )
    assert message.startswith(f"{root}: ")


@pytest.mark.parametrize("train_patient", ["P1", None])
def test_a_patient_is_never_in_both_lists(train_patient):
    train = [entry("P1" if train_patient is None else "a", patient=train_patient), entry("x", patient="P2")]
    refused(lambda: check_split(train, [entry("b", patient="P1")]), "P1", "both train and test")
    check_split(train, [entry("b", patient="P3")])


def test_patients_that_only_the_sheet_tells_are_held_apart_too(root):
    frame = read_clinical(root / "clinical.xlsx").assign(patient=["P1", "P2", "P3"])
    write_clinical(root / "clinical.xlsx", frame)
    train, test = read_splits(root)
    assert [case["patient"] for case in train + test] == ["P1", "P2", "P3"]
    write_clinical(root / "clinical.xlsx", frame.assign(patient=["P1", "P2", "P1"]))
    refused(lambda: read_splits(root), "patient P1 has exams in both")
    write_datalist(root / "test.json", [entry("c", patient="P9")])
    refused(lambda: read_splits(root), "c is of patient 'P9' in the datalist, 'P1' in the clinical sheet")


def whole(root):
    """What a command that reads one datalist finds wrong with the rest of the root."""
    problems = Problems("root")
    check_root(root, problems)
    return str(problems)


def test_a_command_that_reads_one_list_sees_a_patient_of_the_other(root):
    assert whole(root) == "root: 0 problems"
    frame = read_clinical(root / "clinical.xlsx")
    write_clinical(root / "clinical.xlsx", frame.assign(patient=["P1", "P2", "P1"]))
    assert "patient P1  has exams in both train and test" in whole(root)
    write_clinical(root / "clinical.xlsx", frame.iloc[1:])
    assert "0017  has no row in the clinical sheet" in whole(root)
    (root / "clinical.xlsx").unlink()
    write_datalist(root / "test.json", [entry("b")])
    assert "b  is in both train and test" in whole(root)
    (root / "test.json").unlink()
    assert whole(root) == "root: 0 problems"


def merge(root, name):
    """The merged datalist of a plain one, as embedding the reports writes it."""
    cases = json.loads((root / f"{name}.json").read_text())
    write_datalist(root / f"{name}_merged.json", [case | {"text": "embeddings/1.safetensors"} for case in cases])


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        ([entry("0017", True)], "1: b"),
        ([entry("0017", True), entry("b", patient="P1")], "1: b"),
        ([entry("0017", True), entry("b", True)], "1: b"),
        ([entry("c")], "3: 0017, b, c"),
    ],
)
def test_a_merged_list_of_another_split_is_refused(root, cases, told):
    merge(root, "train"), merge(root, "test")
    assert whole(root) == "root: 0 problems"
    write_datalist(root / "train.json", cases)
    write_datalist(root / "test.json", [])
    (root / "clinical.xlsx").unlink()
    message = whole(root)
    assert f"train_merged.json  has other cases, patients or classes than train.json ({told})" in message
    assert "embed the reports again (python -m scripts.encode_reports)" in message
    assert "test_merged.json" in message
    assert SECRET not in message


def test_merged_lists_without_plain_ones_are_accepted(root):
    """As the authors have them."""
    for name in ("train", "test"):
        merge(root, name)
        (root / f"{name}.json").unlink()
    assert whole(root) == "root: 0 problems"


def test_leading_zeros_survive_writing_and_reading_a_sheet(root):
    frame = read_clinical(root / "clinical.xlsx")
    assert list(frame["folder"]) == ["0017", "b", "c"]
    assert sheet_labels(frame).to_dict() == {"0017": True, "b": False, "c": False}


@pytest.mark.parametrize("name", ["NA", "null", "1e5", "TRUE", "007"])
def test_a_name_that_looks_like_something_else_stays_a_name(tmp_path, name):
    write_clinical(tmp_path / "clinical.xlsx", sheet([name, 1, None, "positive"]))
    assert list(read_clinical(tmp_path / "clinical.xlsx")["folder"]) == [name]
    (tmp_path / "table.csv").write_text(f"folder,report\n{name},\n")
    assert read_table(tmp_path / "table.csv").to_dict("records") == [{"folder": name, "report": None}]


def test_a_number_in_the_sheet_matches_only_the_folder_with_these_very_digits(tmp_path):
    sheet([17, 1, None, "train"]).to_excel(tmp_path / "clinical.xlsx", index=False)
    frame = read_clinical(tmp_path / "clinical.xlsx")
    assert check_sheet(frame, [entry("17")]) is None
    refused(lambda: check_sheet(frame, [entry("0017")]), "0017 is 17", "leading zeros", "as Text and type 0017")
    refused(lambda: check_sheet(frame, [entry("17"), entry("017")]), "017 has no row")


@pytest.mark.parametrize("cell", [17.5, pd.Timestamp("2024-01-02"), True])
def test_a_folder_that_excel_made_something_else_of_is_refused(tmp_path, cell):
    sheet([cell, 1, None, "train"]).to_excel(tmp_path / "clinical.xlsx", index=False)
    refused(lambda: read_clinical(tmp_path / "clinical.xlsx"), "row 2", "format the column as Text")


def test_a_folder_number_too_long_for_excel_is_not_matched_to_another_one(tmp_path):
    sheet([1234567890123456789, 1, None, "train"]).to_excel(tmp_path / "clinical.xlsx", index=False)
    frame = read_clinical(tmp_path / "clinical.xlsx")
    refused(lambda: check_sheet(frame, [entry("1234567890123456780")]), "1234567890123456780", "has no row")


def test_a_sheet_with_an_unknown_a_missing_or_a_double_column_is_refused(tmp_path):
    path = tmp_path / "clinical.xlsx"
    sheet(["a", 1, None, "train"]).rename(columns={"PosISUP": "PosIsup"}).to_excel(path, index=False)
    refused(lambda: read_clinical(path), "unknown column 'PosIsup'", "no column PosISUP")
    pd.DataFrame([["a", "b"]], columns=["folder", "folder"]).to_excel(path, index=False)
    refused(lambda: read_clinical(path), "'folder' is there more than once")


def test_the_same_folder_in_two_rows_is_refused(tmp_path):
    write_clinical(tmp_path / "clinical.xlsx", sheet(["a", 1, None, "train"], ["a", 0, None, "train"]))
    refused(lambda: read_clinical(tmp_path / "clinical.xlsx"), "a has 2 rows")


def test_labels_fall_back_on_isup_only_where_pirads_is_empty(tmp_path):
    rows = [["a", 1, 0, "train"], ["b", 0, 1, "test"], ["c", None, 1, "positive"], ["d", "1.0", None, "negative"]]
    write_clinical(tmp_path / "clinical.xlsx", sheet(*rows))
    assert list(sheet_labels(read_clinical(tmp_path / "clinical.xlsx"))) == [True, False, True, True]


def test_tables_are_read_with_semicolons_quotes_and_empty_rows(tmp_path):
    (tmp_path / "t.csv").write_text('\ufefffolder;report\n01;"left, apex\nline; two"\n;\n02; \n', encoding="utf-8")
    records = read_table(tmp_path / "t.csv").to_dict("records")
    assert records == [{"folder": "01", "report": "left, apex\nline; two"}, {"folder": "02", "report": None}]
    assert list(read_table(tmp_path / "t.csv").index) == [2, 4]


@pytest.mark.parametrize(
    ("name", "content"), [("t.csv", b"\xff\xfe\x00"), ("t.xlsx", b"PK no"), ("t.csv", b""), ("t.csv", None)]
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(lambda: read_table(tmp_path / name), name)


REPORT = "Zorv quil mexi bantu"  # as short as a name, and of words that stand nowhere else


def quotes_nothing(root):
    """read_splits refuses the root without a word of REPORT; gives the message."""
    assert len(REPORT) == 20
    message = refused(lambda: read_splits(root))
    assert not [word for word in REPORT.split() if word in message], message
    return message


@pytest.mark.parametrize("column", ["folder", "PosPIRADS", "PosISUP", "Label", "patient"])
def test_a_short_report_in_a_wrong_column_of_the_sheet_is_not_quoted(root, column):
    frame = pd.read_excel(root / "clinical.xlsx", dtype=object).assign(patient=["P1", "P2", "P1"])
    frame.loc[[0, 2] if column == "patient" else [1], column] = REPORT
    frame.to_excel(root / "clinical.xlsx", index=False)
    message = quotes_nothing(root)
    if column == "folder":
        assert "clinical sheet row 3 is in the clinical sheet but in no datalist" in message
    elif column == "patient":
        assert "patient of 0017 has exams in both" in message
    else:
        assert f"b {column} is text of 20 characters" in message


def test_column_names_and_double_rows_are_not_quoted_where_they_may_be_reports(root):
    frame = pd.read_excel(root / "clinical.xlsx", dtype=object)
    frame.rename(columns={"Label": REPORT}).to_excel(root / "clinical.xlsx", index=False)
    assert "unknown column text of 20 characters" in quotes_nothing(root)
    frame.assign(folder=["0017", REPORT, REPORT]).to_excel(root / "clinical.xlsx", index=False)
    assert "clinical.xlsx row 3 has 2 rows" in quotes_nothing(root)


@pytest.mark.parametrize("key", ["folder", "axt2", "adc", "pirads", "spacing", "text_isnull", "patient"])
@pytest.mark.parametrize("value", [REPORT, [REPORT], {"text": REPORT}])
def test_a_short_report_under_a_wrong_key_of_a_datalist_is_not_quoted(root, key, value):
    patient = {"patient": REPORT}  # whose exams are in both lists, so that there is always something to refuse
    write_datalist(root / "train.json", [entry("0017", True, **patient), entry("b") | {key: value}])
    write_datalist(root / "test.json", [entry("c", **patient)])
    quotes_nothing(root)


def test_a_folder_of_several_words_is_accepted_where_it_exists(root):
    (root / "b").rename(root / "exam of b")
    assert with_train(root, entry("exam of b"))()[0]["folder"] == "exam of b"
    refused(with_train(root, entry("exam of c")), "train.json[0] folder text of 9 characters is not in")


def test_merged_datalists_are_read_by_name(root):
    merge(root, "train"), merge(root, "test")
    train, _ = read_splits(root, names=MERGED, check_files=False)
    assert train[0]["text"] == "embeddings/1.safetensors"

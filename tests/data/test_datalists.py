"""Datalists: which entries and images are accepted, which are refused, and that everything wrong is told at once."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_root import SPACING, entry, refused, save, with_train
from scripts.common.problems import Problems
from scripts.data.datalists import check_headers, check_split, read_datalist, write_datalist
from scripts.data.root import read_splits


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"text": "Lesion in the left apex", ]', ["not valid JSON at line 1"]),
        (b'{"text": "Lesion in the left apex"}', ["not a list"]),
        (b'["Lesion in the left apex"]', ["train.json[0]", "not a case"]),
        (b"[\xff\xfe]", ["not UTF-8"]),
        (b"[" * 100_000, ["nested too deeply"]),
    ],
)
def test_a_file_that_is_no_datalist_is_refused_without_quoting_it(root, content, words):
    (root / "train.json").write_bytes(content)
    refused(lambda: read_datalist(root / "train.json", root), *words)


def test_a_missing_datalist_says_where_it_belongs(root):
    refused(lambda: read_datalist(root / "none.json", root), "none.json", "put the datalist at")


@pytest.mark.parametrize("train_patient", ["P1", None])
def test_a_patient_is_never_in_both_lists(train_patient):
    train = [entry("P1" if train_patient is None else "a", patient=train_patient), entry("x", patient="P2")]
    refused(lambda: check_split(train, [entry("b", patient="P1")]), "P1", "both train and test")
    check_split(train, [entry("b", patient="P3")])


@pytest.mark.parametrize("spelled", ["p1", "P01", "P1\u200b", "Ｐ１"])
def test_a_patient_spelled_in_two_ways_is_never_in_both_lists(spelled):
    train, test = [entry("a", patient="P1")], [entry("b", patient=spelled)]
    refused(lambda: check_split(train, test), "patient P1 has exams in both train and test, there written")

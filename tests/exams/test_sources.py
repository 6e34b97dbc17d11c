"""Images are found by patterns in files and DICOM exports, and a table of choices takes their place."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from monai.utils import optional_import

from scripts.common.problems import ImageError, Problems
from scripts.data.readers import read_volume
from scripts.exams.sources import Source, chosen, find, read_choices, write_choices

needs_dicom = pytest.mark.skipif(not optional_import("pydicom")[1], reason="the extra [readers] is not installed")
IMAGES = ("axt2", "b1600", "adc")


@pytest.fixture
def exam(tmp_path):
    """An exam with a 4D NIfTI and, flat beside it, two DICOM series."""
    from dicom_files import write_series

    folder = tmp_path / "e1"
    write_series(folder, prefix="a", series=1, description="t2_tra")
    write_series(folder, prefix="b", series=2, description="adc_map")
    volumes = np.random.default_rng(0).random((4, 4, 4, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(volumes, np.eye(4)), folder / "dwi.nii.gz")
    return folder


@needs_dicom
def test_a_pattern_fits_a_file_or_describes_a_series(exam):
    assert find(exam, "b1600", "dwi*", volume=2) == Source(exam / "dwi.nii.gz", volume=2)
    described = find(exam, "axt2", "T2*")
    assert (described.path, described.description) == (exam, "t2_tra")
    assert find(exam, "adc", "b*.dcm").description == "adc_map"  # its files
    with pytest.raises(ImageError, match="nothing fits sag"):
        find(exam, "axt2", "sag*")
    with pytest.raises(ImageError, match="leaves the exam's folder"):
        find(exam, "axt2", "../*")


@needs_dicom
def test_choices_are_written_and_read_back_as_they_were(exam, tmp_path):
    images = {"axt2": find(exam, "axt2", "t2*"), "b1600": find(exam, "b1600", "dwi*", volume=2)}
    write_choices(tmp_path / "series.csv", [("e1", exam, images)])
    problems = Problems("series")
    rows = read_choices(tmp_path / "series.csv", IMAGES, problems)
    assert not problems
    for image, source in images.items():
        again = chosen(exam, rows["e1", image])
        assert (again.path, again.options) == (source.path, source.options)


@needs_dicom
def test_an_edited_row_may_tell_a_series_by_its_description(exam):
    row = {"path": ".", "series": None, "description": "adc*", "b_value": None, "volume": None}
    assert chosen(exam, row).description == "adc_map"
    with pytest.raises(ImageError, match="describes a series that is not there"):
        chosen(exam, {**row, "description": "sag"})
    for path in ("..", "nowhere", "/etc"):
        with pytest.raises(ImageError, match="not in the exam's folder"):
            chosen(exam, {**row, "path": path})


def test_what_is_wrong_with_the_table_is_told_by_row(tmp_path):
    rows = [("e1", "axt2", "t2", "x"), ("e1", "axt2", "t2", ""), ("e1", "t1", "t1", "")]
    pd.DataFrame(rows, columns=["folder", "image", "path", "b_value"]).to_csv(tmp_path / "s.csv", index=False)
    problems = Problems("series")
    read_choices(tmp_path / "s.csv", IMAGES, problems)
    for words in ("row 2  b_value is 'x'", "row 3  is a second row", "row 4  image is 't1'"):
        assert words in str(problems)
    pd.DataFrame(rows).to_csv(tmp_path / "s.csv", index=False)
    read_choices(tmp_path / "s.csv", IMAGES, problems)
    assert "has no column folder, image, path" in str(problems)


def test_one_volume_of_a_4d_file_is_read_by_its_number(tmp_path):
    volumes = np.random.default_rng(0).random((4, 4, 4, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(volumes, np.eye(4)), tmp_path / "dwi.nii.gz")
    np.testing.assert_allclose(read_volume(tmp_path / "dwi.nii.gz", volume=2)[0], volumes[..., 1])
    for volume, words in ((None, "holds 3 volumes"), (4, "no volume 4"), (0, "no volume 0")):
        with pytest.raises(ImageError, match=words):
            read_volume(tmp_path / "dwi.nii.gz", volume=volume)

"""Which series of an export is meant: by description, folder or file, a DWI by its b-value; or it is refused."""

from __future__ import annotations

import pytest

from dicom_files import SECRET, classic, save, write_series
from scripts.common.problems import ImageError
from scripts.dicom.choice import choose, holding, named
from scripts.dicom.series import scan


@pytest.fixture
def export(tmp_path):
    """A flat export: T2w, localizer and screenshot of like names, three b-values in series of their own; a study."""

    def localizer(data, k):
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def screenshot(data, k):
        data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.7", "OT"

    write_series(tmp_path / "flat", prefix="a", series=1, description="t2_tse_tra")
    write_series(tmp_path / "flat", localizer, prefix="b", series=2, description="t2 localizer")
    write_series(tmp_path / "flat", screenshot, prefix="c", series=3, description="t2 snapshot")
    for n, b_value in enumerate((50, 400, 1400)):
        write_series(
            tmp_path / "flat",
            lambda data, k, b=b_value: setattr(data, "DiffusionBValue", float(b)),
            prefix=f"d{n}",
            series=10 + n,
            description=f"dwi part {n}",
        )
    write_series(tmp_path / "2020" / "scan_Cor", series=20, description=SECRET)
    return tmp_path


def pick(root, pattern, dwi=False, b_value=None):
    series, b_value, told = choose(named(scan(root), pattern, root), pattern, dwi, b_value)
    return series.description, b_value, told


def test_a_description_is_enough_in_any_capitals_and_asides_are_passed_over(export):
    assert pick(export, "T2*")[0] == "t2_tse_tra"
    assert pick(export, "t2 loc*")[0] == "t2 localizer"  # unless it is what was asked for


@pytest.mark.parametrize("pattern", ["*_cor", "2020/*", "2020"])
def test_a_folder_is_enough(export, pattern):
    assert pick(export, pattern)[0] == SECRET


def test_files_and_folders_tell_their_series(export):
    found = scan(export)
    assert [s.description for s in holding(found, [export / "2020"])] == [SECRET]
    assert [s.description for s in holding(found, sorted((export / "flat").glob("a*")))] == ["t2_tse_tra"]


def test_the_highest_of_series_of_one_b_value_each_is_taken_and_told(export):
    assert pick(export, "dwi*", dwi=True) == ("dwi part 2", 1400, "b-values found: 50, 400, 1400; 1400 is taken")
    assert pick(export, "dwi*", dwi=True, b_value=400)[:2] == ("dwi part 1", 400)
    with pytest.raises(ImageError, match=r"no image of b-value 800; b-values found: 50, 400, 1400"):
        pick(export, "dwi*", dwi=True, b_value=800)


def test_several_series_are_refused_with_what_they_are(export):
    with pytest.raises(ImageError, match=r"fits 3 DICOM series: 'dwi part 0' \(5 images, b 50\); 'dwi part 1'"):
        pick(export, "dwi*")


def test_a_description_that_may_hold_a_name_is_not_quoted(export):
    save(classic(0, series=30, description=SECRET), export / "2020" / "scan_Cor" / "other.dcm")
    with pytest.raises(ImageError, match="2 DICOM series") as caught:
        pick(export, "2020")
    assert SECRET not in str(caught.value)


def test_no_series_is_said_with_the_kinds_of_files(tmp_path):
    (tmp_path / "1.png").write_bytes(b"png")
    with pytest.raises(ImageError, match=r"0 DICOM series: only files of other kinds \(.png\)"):
        scan(tmp_path)


def test_damage_in_another_folder_does_not_concern_a_series(export):
    (export / "2020" / "scan_Cor" / "1.dcm").write_bytes(b"")
    found = scan(export)
    found.check({export / "flat"})
    with pytest.raises(ImageError, match="empty file"):
        found.check({export / "2020" / "scan_Cor"})

"""Messages quote no report, whichever cell or key one may stand in by mistake."""

from __future__ import annotations

import pandas as pd
import pytest

from data_root import entry, refused, with_train
from scripts.data.datalists import write_datalist
from scripts.data.root import read_splits

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

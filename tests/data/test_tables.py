"""Tables: every cell as it stands, and what is no table is refused."""

from __future__ import annotations

import re
import zipfile

import numpy as np
import openpyxl
import pytest

from data_root import refused
from scripts.common.problems import UserError
from scripts.data.tables import read_table


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


@pytest.mark.parametrize("quote", ['"', ""])
@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_commas_in_a_columns_name_are_no_separators(tmp_path, separator, quote):
    name = "report (PZ, TZ, AFMS, SV, LN)"
    lines = [["folder", f"{quote}{name}{quote}", "pirads"], ["e1", "left, 12 mm, apex", "4"], ["e2", "", "2"]]
    (tmp_path / "t.csv").write_text("\n".join(separator.join(line) for line in lines), encoding="utf-8")
    records = read_table(tmp_path / "t.csv").to_dict("records")
    assert records == [
        {"folder": "e1", name: "left, 12 mm, apex", "pirads": "4"},
        {"folder": "e2", name: None, "pirads": "2"},
    ]


def test_a_row_with_too_many_cells_is_told_by_its_line(tmp_path):
    (tmp_path / "t.csv").write_text("folder,report,pirads\ne1,left apex,4\ne2,right, at the base,5\n", encoding="utf-8")
    message = refused(lambda: read_table(tmp_path / "t.csv"), "row 3 has 4 cells, there are 3 column names")
    assert "apex" not in message


def save(path, *sheets, change=lambda book: None):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    change(book)
    book.save(path)
    return path


ROWS = [["folder", "report"], ["e1", "left"], ["e2", "right"]]


@pytest.mark.parametrize(
    ("sheets", "change", "words"),
    [
        ([ROWS, ROWS], lambda book: None, "sheet 2 has rows too and is not read"),
        ([ROWS], lambda book: setattr(book.worksheets[0].row_dimensions[3], "hidden", True), "hidden rows .*: 3;"),
        ([ROWS], lambda book: book.worksheets[0].merge_cells("B2:B3"), "merged cells .*: B2:B3;"),
        (
            [ROWS, [["notes"]]],
            lambda book: setattr(book.worksheets[0], "sheet_state", "hidden"),
            "first sheet, which is read, is hidden",
        ),
    ],
)
def test_what_a_person_sees_otherwise_than_it_is_read_is_told(tmp_path, caplog, sheets, change, words):
    path = save(tmp_path / "t.xlsx", *sheets, change=change)
    assert read_table(path).iloc[0].to_dict() == {"folder": "e1", "report": "left"}
    assert re.search(words, caplog.text)


def test_a_plain_workbook_tells_nothing(tmp_path, caplog):
    read_table(save(tmp_path / "t.xlsx", ROWS, [["notes"]]))
    assert not caplog.text


def test_a_formula_whose_value_is_stored_is_that_value(tmp_path):
    """As Excel writes it; also the empty text, which is no missing value."""
    path = save(tmp_path / "t.xlsx", [*ROWS[:2], ["e2", "to be one"], ["e3", "to be one"]])
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name).decode() for name in book.namelist()}
    sheet = next(name for name in parts if name.endswith("sheet1.xml"))
    for text, value in {"B3": "<v>ab</v>", "B4": "<v></v>"}.items():
        parts[sheet], count = re.subn(
            rf'<c r="{text}".*?</c>', rf'<c r="{text}" t="str"><f>A1</f>{value}</c>', parts[sheet]
        )
        assert count == 1
    with zipfile.ZipFile(path, "w") as book:
        for name, part in parts.items():
            book.writestr(name, part)
    assert read_table(path)["report"].tolist() == ["left", "ab", None]


def test_a_quote_that_is_not_closed_is_told(tmp_path):
    (tmp_path / "t.csv").write_text('folder,report\ne1,"left apex\ne2,right\n', encoding="utf-8")
    refused(lambda: read_table(tmp_path / "t.csv"), "a quote", "not closed")


def test_a_damaged_workbook_is_refused_or_read_right(tmp_path):
    path = save(tmp_path / "t.xlsx", [ROWS[0], *([f"e{i}", f"text {i}"] for i in range(20))])
    whole, right = path.read_bytes(), read_table(path)
    random = np.random.default_rng(0)
    for number in range(50):
        content = bytearray(whole)
        if number % 2:
            content[random.integers(len(whole))] ^= 1 << random.integers(8)
        else:
            del content[random.integers(len(whole)) :]
        path.write_bytes(content)
        try:
            assert read_table(path).equals(right)
        except UserError:
            continue

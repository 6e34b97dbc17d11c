"""Tables: every cell as it stands, and what is no table is refused."""

from __future__ import annotations

import pytest

from data_root import refused
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

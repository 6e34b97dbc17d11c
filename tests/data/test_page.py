"""The HTML page: everything is inside one file, and what users typed cannot become markup."""

import pandas as pd
from PIL import Image

from scripts.data.page import Page


def test_page_holds_pictures_and_escapes_text(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    page = Page("Title", "Lead")
    section = page.section("Results")
    section.quote("<script>alert(1)</script>").figure(tmp_path / "picture.png", "a & b")
    section.table(pd.DataFrame({"name": ["<b>x</b>"], "value": [0.123456]}))
    page.write(tmp_path / "page.html")

    html = (tmp_path / "page.html").read_text()
    assert "<script>" not in html
    assert "<b>x</b>" not in html
    assert "&lt;script&gt;" in html
    assert "a &amp; b" in html
    assert "data:image/png;base64," in html
    assert "http" not in html
    assert ">0.123<" in html

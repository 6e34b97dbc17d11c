"""One self-contained HTML page of pictures, tables and words: what `prepare`, `make demo` and `make study` end with."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd

from scripts.common.files import atomic

# Everything that is filled in is escaped by jinja2's autoescape; pictures are embedded, so the page can be mailed.
TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page.title }}</title>
<style>
  body { margin: 2.5rem auto; max-width: 72rem; padding: 0 1.5rem; color: #1c2126; background: #fff;
         font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
  h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
  .lead { color: #56606a; margin: 0 0 1.5rem; }
  figure { margin: 1rem 0 1.6rem; } figure img { width: 100%; border-radius: 6px; display: block; background: #0d0f12; }
  figcaption { color: #56606a; font-size: .92rem; margin-top: .45rem; }
  blockquote { margin: .8rem 0; padding: .6rem 1rem; border-left: 4px solid #3f7cac; background: #f3f6f9; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; font-size: .93rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
  th, td { padding: .35rem .8rem; border-bottom: 1px solid #dfe4e8; text-align: left; vertical-align: top; }
  th { border-bottom: 2px solid #b9c2ca; }
  .sheet { display: flex; flex-wrap: wrap; justify-content: center; gap: .5rem; margin: 1rem calc(50% - 48vw) 1.6rem; }
  .card { background: #0d0f12; color: #c9d0d6; border-radius: 5px; padding: 4px; font-size: .8rem; width: min-content;
          content-visibility: auto; contain-intrinsic-size: auto 390px auto 160px; }
  .card img { display: block; } .card b { font-weight: 600; color: #fff; }
  .card p { margin: .15rem 2px; line-height: 1.3; overflow-wrap: anywhere; }
  .marked { outline: 2px solid #e0a030; } .marked .told { color: #f2c766; }
</style></head><body>
<h1>{{ page.title }}</h1><p class="lead">{{ page.lead }}</p>
{% for section in page.sections %}
<h2>{{ section.title }}</h2>
{% for block in section.blocks %}
{% if block.kind == "text" %}<p>{{ block.text }}</p>
{% elif block.kind == "quote" %}<blockquote>{{ block.text }}</blockquote>
{% elif block.kind == "sheet" %}
<div class="sheet">
{% for card in block.cards %}
<div class="card{{ " marked" if card.told }}">
<img alt="{{ card.title }}" src="data:image/jpeg;base64,{{ card.picture }}">
<p><b>{{ card.title }}</b> {{ card.text }}</p>
{% for line in card.told %}<p class="told">{{ line }}</p>{% endfor %}

</div>
{% endfor %}
</div>
{% elif block.kind == "figure" %}
<figure><img alt="{{ block.text }}" src="data:image/png;base64,{{ block.picture }}">
<figcaption>{{ block.text }}</figcaption></figure>
{% else %}
<div class="scroll"><table><thead><tr>{% for name in block.table.columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in block.table.itertuples(index=False) %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endif %}
{% endfor %}
{% endfor %}
</body></html>
"""
)


class Card(NamedTuple):
    """A small picture of a contact sheet, a JPEG in base64, with title, a few words, and what is told of it."""

    title: str
    text: str
    picture: str
    told: Sequence[str] = ()


@dataclass
class Block:
    """One piece of a section; `kind` is text, quote, figure, table or sheet."""

    kind: str
    text: str = ""
    picture: str = ""
    table: pd.DataFrame | None = None
    cards: Sequence[Card] = ()


@dataclass
class Section:
    """A heading with blocks in order; every method adds one block and returns the section."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def text(self, text: str) -> Section:
        """Add a paragraph."""
        self.blocks.append(Block("text", text))
        return self

    def quote(self, text: str) -> Section:
        """Add a quotation, such as a report that the reader typed."""
        self.blocks.append(Block("quote", text))
        return self

    def figure(self, path: str | os.PathLike[str], caption: str) -> Section:
        """Add a PNG file with a caption; the picture is stored inside the page."""
        picture = base64.b64encode(Path(path).read_bytes()).decode()
        self.blocks.append(Block("figure", caption, picture))
        return self

    def table(self, frame: pd.DataFrame) -> Section:
        """Add a table; floating point numbers are shown with three significant digits."""
        shown = frame.map(lambda cell: f"{cell:.3g}" if isinstance(cell, float) else cell)
        self.blocks.append(Block("table", table=shown))
        return self

    def sheet(self, cards: Sequence[Card]) -> Section:
        """Add a contact sheet of small pictures, as wide as the window; those of which something is told are marked."""
        self.blocks.append(Block("sheet", cards=list(cards)))
        return self


@dataclass
class Page:
    """A title, a sentence under it, and sections."""

    title: str
    lead: str
    sections: list[Section] = field(default_factory=list)

    def section(self, title: str) -> Section:
        """Begin a section."""
        self.sections.append(Section(title))
        return self.sections[-1]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page as one HTML file, complete or not at all."""
        with atomic(path) as temporary:
            temporary.write_text(TEMPLATE.render(page=self), encoding="utf-8")

"""One self-contained HTML page of pictures, tables and words: what `make demo` and `make study` end with."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from pathlib import Path

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
</style></head><body>
<h1>{{ page.title }}</h1><p class="lead">{{ page.lead }}</p>
{% for section in page.sections %}
<h2>{{ section.title }}</h2>
{% for block in section.blocks %}
{% if block.kind == "text" %}<p>{{ block.text }}</p>
{% elif block.kind == "quote" %}<blockquote>{{ block.text }}</blockquote>
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


@dataclass
class Block:
    """One piece of a section; `kind` is text, quote, figure or table."""

    kind: str
    text: str = ""
    picture: str = ""
    table: pd.DataFrame | None = None


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

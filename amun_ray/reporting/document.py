"""A document of texts, tables and pictures, as one HTML page and as PDF: the same content, twice.

The PDF is made by fpdf2: pure Python beside Pillow and fontTools, which Matplotlib brings, so it needs no library of
the system and no browser. Its typeface is Matplotlib's own, DejaVu, which has every letter that names use in Europe.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib
from fpdf import FPDF
from fpdf.enums import Align, TableBordersLayout, VAlign, WrapMode, XPos, YPos
from fpdf.fonts import FontFace
from jinja2 import Environment, StrictUndefined

TEMPLATE = Path(__file__).with_name("proof.html")
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
DIGEST = re.compile(r"[0-9a-f]{16,}")  # set in a typewriter's letters
MARGIN, WIDTH = 16, 178  # mm, of A4
TEXT, SMALL, LINE = 9.5, 8, 4.8  # points, points, mm


@dataclass(frozen=True)
class Table:
    """Rows of cells; `widths` are the shares of the columns on paper."""

    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    widths: Sequence[float] = ()


@dataclass(frozen=True)
class Illustration:
    """A PNG file, and what it shows."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, and below it in this order: paragraphs, points, tables, pictures."""

    title: str
    texts: Sequence[str] = ()
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Illustration] = ()


@dataclass(frozen=True)
class Document:
    """A title, a line below it, the verdict and whether it is a good one, and the sections."""

    title: str
    subtitle: str
    verdict: str
    good: bool
    sections: Sequence[Section]

    def html(self) -> bytes:
        """One page that needs nothing else."""
        environment = Environment(autoescape=True, undefined=StrictUndefined)
        environment.filters["base64"] = lambda png: base64.b64encode(png).decode()
        environment.filters["is_digest"] = lambda cell: bool(DIGEST.fullmatch(cell))
        return environment.from_string(TEMPLATE.read_text()).render(vars(self)).encode()

    def pdf(self) -> bytes:
        """A4 pages, with the title and the number of each at its foot."""
        paper = _Paper(self.title)
        paper.add_page()
        paper.write_line(self.title, 16, "B", 8)
        paper.write_line(self.subtitle, TEXT, "", LINE)
        paper.verdict(self.verdict, self.good)
        for section in self.sections:
            paper.section(section)
        return bytes(paper.output())


class _Paper(FPDF):
    def __init__(self, title: str) -> None:
        super().__init__("portrait", "mm", "A4")
        self.set_title(title)
        self.set_lang("en")
        self.set_margin(MARGIN)
        self.set_auto_page_break(True, 20)
        for style, file in (("", "DejaVuSans"), ("B", "DejaVuSans-Bold")):
            self.add_font("body", style, FONTS / f"{file}.ttf")
        self.add_font("code", "", FONTS / "DejaVuSansMono.ttf")
        self._foot = title

    def footer(self) -> None:
        """What stands at the foot of each page."""
        self.set_y(-14)
        self.set_font("body", "", SMALL)
        self.set_text_color(90)
        self.cell(0, LINE, f"{self._foot} · page {self.page_no()} of {{nb}}", align=Align.C)
        self.set_text_color(0)

    def write_line(self, text: str, size: float, style: str, height: float) -> None:
        self.set_font("body", style, size)
        self.multi_cell(0, height, text, align=Align.L, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def verdict(self, text: str, good: bool) -> None:
        self.ln(2)
        self.set_fill_color(*((238, 248, 244) if good else (253, 241, 234)))
        self.set_font("body", "B", TEXT)
        self.multi_cell(0, 6, text, align=Align.L, fill=True, padding=2, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def section(self, section: Section) -> None:
        if self.will_page_break(28):  # a heading stays with what follows
            self.add_page()
        self.ln(4)
        self.write_line(section.title, 12, "B", 7)
        self.set_draw_color(0, 114, 178)
        self.line(MARGIN, self.get_y(), MARGIN + WIDTH, self.get_y())
        self.ln(2)
        for text in section.texts:
            self.write_line(text, TEXT, "", LINE)
            self.ln(1)
        for text in section.points:
            self.set_x(MARGIN)
            self.set_font("body", "", TEXT)
            self.cell(5, LINE, "•")
            self.multi_cell(WIDTH - 5, LINE, text, align=Align.L, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            self.ln(0.6)
        for table in section.tables:
            self._table(table)
        for picture in section.figures:
            self._picture(picture)

    def _table(self, table: Table) -> None:
        self.set_draw_color(190)
        self.set_fill_color(255)
        self.set_font("body", "", SMALL)
        self.ln(1)
        with self.table(width=WIDTH, col_widths=table.widths or None, line_height=4.2, padding=(0.7, 1.2), align="L",
                        text_align="LEFT", v_align=VAlign.T, first_row_as_headings=bool(table.head),
                        headings_style=FontFace(emphasis="BOLD"), wrapmode=WrapMode.WORD if table.head else
                        WrapMode.CHAR, borders_layout=TableBordersLayout.HORIZONTAL_LINES) as paper:
            for cells in [table.head, *table.rows] if table.head else table.rows:
                row = paper.row()
                for cell in cells:
                    row.cell(cell, style=FontFace(family="code", size_pt=6.2) if DIGEST.fullmatch(cell) else None)
        self.ln(1)

    def _picture(self, picture: Illustration) -> None:
        self.ln(1)
        self.image(BytesIO(picture.png), w=WIDTH, x=MARGIN, alt_text=picture.caption)
        self.ln(1)
        self.write_line(picture.caption, SMALL, "", 4)

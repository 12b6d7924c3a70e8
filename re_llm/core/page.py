"""A page of headings, paragraphs, tables and plots, written as Markdown and as one self-contained HTML file.

Text of the page's author may hold `code` and **bold**; text of others (replies, names) goes through `quote`, which
makes it harmless in both forms.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from re_llm.core.files import disk_error, write_text

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --line: #dfe4ea; --paper: #ffffff; --tint: #f5f7fa;
  --accent: #2458c5; --best: #e7f0ff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa6b5; --line: #333c48; --paper: #14181e;
  --tint: #1c222a; --accent: #8fb2ff; --best: #203253; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 50rem; }
li { margin: .2rem 0; }
nav { color: var(--soft); font-size: .9rem; }
nav a { color: var(--accent); text-decoration: none; margin-right: 1rem; white-space: nowrap; }
code { font-size: .88em; background: var(--tint); padding: .1em .3em; border-radius: 4px; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .8rem 0 1.2rem; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .45rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { white-space: normal; vertical-align: bottom; }
th { background: var(--tint); font-weight: 600; color: var(--soft); }
tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: var(--tint); }
th.text, td.text { text-align: left; white-space: normal; }
td.best { background: var(--best); font-weight: 650; }
td small { display: block; color: var(--soft); font-size: .78em; font-weight: 400; }
audio { display: block; width: 11rem; height: 2rem; margin-top: .25rem; }
mark { color: inherit; background: none; padding: 0 .1em; }
mark.er, mark.both { background: var(--best); border-radius: 3px; }
mark.ex, mark.both { border-bottom: 2px solid var(--accent); }
aside { border-left: 4px solid var(--accent); background: var(--tint); padding: .6rem 1rem; border-radius: 0 8px 8px 0;
  margin: 1rem 0; max-width: 52rem; }
aside p { margin: .3rem 0; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: .5rem; }
@media (max-width: 40rem) { body { padding: 1.2rem .7rem 3rem; font-size: 15px; } h1 { font-size: 1.5rem; }
  th, td { padding: .3rem .4rem; } td.text { min-width: 4.8rem; }
  td.wide { min-width: 13rem; } figure { overflow-x: auto; }
  figure img { max-width: none; min-width: 40rem; } audio { width: 7.5rem; } }
@media print { body { max-width: none; } .scroll { overflow: visible; border: 0; } nav { display: none; } }
""".strip()

SENTENCE = 30  # characters: a cell of more is no name
_MARKUP = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*")
_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~$!])")


def quote(text: str) -> Quoted:
    """Text of others, shown as it is; line breaks become spaces."""
    return Quoted(" ".join(text.split()))


class Quoted(str):
    """Text without markup; its signs mean themselves."""


def to_html(text: str) -> str:
    if isinstance(text, Quoted):
        return html.escape(text)
    return _MARKUP.sub(
        lambda m: f"<code>{m[1]}</code>" if m[1] else f"<strong>{m[2]}</strong>", html.escape(text, quote=False)
    )


def to_markdown(text: str) -> str:
    return _MARKDOWN_SIGNS.sub(r"\\\1", text) if isinstance(text, Quoted) else text


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "±": r"$\pm$", "—": "---",
})  # fmt: skip


def to_latex(text: str) -> str:
    """Text whose signs mean themselves; markup of the page's author is dropped."""
    plain = text if isinstance(text, Quoted) else _MARKUP.sub(lambda match: match[1] or match[2], text)
    return plain.translate(_LATEX)


@dataclass(frozen=True)
class Value:
    """A table cell: a text, a smaller one beneath it (a line for each part behind `; `), whether it is the best."""

    text: str
    note: str = ""
    best: bool = False

    def html(self) -> str:
        kind = type(self.note)
        notes = "".join(f"<small>{to_html(kind(each))}</small>" for each in self.note.split("; ") if each)
        return to_html(self.text) + notes

    def markdown(self) -> str:
        text = to_markdown(self.text)
        return (f"**{text}**" if self.best else text) + (f" {to_markdown(self.note)}" if self.note else "")

    def latex(self) -> str:
        text = to_latex(self.text)
        note = rf" {{\scriptsize {to_latex(self.note)}}}" if self.note else ""
        return (rf"\textbf{{{text}}}" if self.best else text) + note


@dataclass(frozen=True)
class Marked:
    """A table cell with text of others, some passages of it marked: (text, name of the mark or nothing)."""

    pieces: Sequence[tuple[str, str]]
    best = False

    def html(self) -> str:
        return "".join(
            f'<mark class="{name}">{html.escape(text)}</mark>' if name else html.escape(text)
            for text, name in self.pieces
        )

    def markdown(self) -> str:
        """Marks are bold; blanks at their ends stand outside."""
        found = []
        for text, name in self.pieces:
            plain, inner = to_markdown(quote(text)), text.strip()
            ends = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
            found.append(f"{ends[0]}**{plain}**{ends[1]}" if name and inner else to_markdown(Quoted(text)))
        return "".join(found)

    def latex(self) -> str:
        pieces = ((to_latex(Quoted(text)), name) for text, name in self.pieces)
        return "".join(rf"\emph{{{text}}}" if name else text for text, name in pieces)


@dataclass(frozen=True)
class Clip(Value):
    """A table cell with a recording that the HTML page plays: a FLAC file, and a text beside it."""

    flac: bytes = field(kw_only=True)

    def html(self) -> str:
        data = base64.b64encode(self.flac).decode("ascii")
        return f'{super().html()}<audio controls preload="none" src="data:audio/flac;base64,{data}"></audio>'


NONE = Value("—")
Cell = Value | Marked | str
Cells = list[Cell]  # one row of a table


def percent(fraction: float | None) -> str:
    """A fraction (0..1) for a cell."""
    return "—" if fraction is None else f"{100 * fraction:.0f} %"


@dataclass(frozen=True)
class Heading:
    level: int
    text: str

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-")

    def html(self) -> str:
        return f'<h{self.level} id="{self.anchor}">{to_html(self.text)}</h{self.level}>'

    def markdown(self) -> str:
        return f"{'#' * self.level} {to_markdown(self.text)}"


@dataclass(frozen=True)
class Paragraph:
    """`aside`: set apart, for what must not be overlooked."""

    text: str
    aside: bool = False

    def html(self) -> str:
        inner = f"<p>{to_html(self.text)}</p>"
        return f"<aside>{inner}</aside>" if self.aside else inner

    def markdown(self) -> str:
        return ("> " if self.aside else "") + to_markdown(self.text)


@dataclass(frozen=True)
class Items:
    items: Sequence[str]

    def html(self) -> str:
        return "<ul>" + "".join(f"<li>{to_html(item)}</li>" for item in self.items) + "</ul>"

    def markdown(self) -> str:
        return "\n".join(f"- {to_markdown(item)}" for item in self.items)


@dataclass(frozen=True)
class Table:
    """`text_columns`: how many columns from the left, and which others, hold text and not numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: Sequence[int] = (0,)

    def _cells(self, row: Sequence[Cell]) -> list[Value | Marked]:
        assert len(row) == len(self.header), f"{len(row)} cells under {len(self.header)} headings"
        return [Value(cell) if isinstance(cell, str) else cell for cell in row]

    def _kind(self, column: int) -> str:
        """Class of a column: `wide` where a cell holds a sentence, for which a narrow screen must leave room."""
        if column not in self.text_columns:
            return ""
        longest = max((len(self._cells(row)[column].markdown()) for row in self.rows), default=0)
        return "text wide" if longest > SENTENCE else "text"

    def html(self) -> str:
        kinds = [self._kind(i) for i in range(len(self.header))]
        head = "".join(f'<th class="{k}">{to_html(h)}</th>' for k, h in zip(kinds, self.header, strict=True))
        body = ""
        for row in self.rows:
            cells = zip(kinds, self._cells(row), strict=True)
            body += "<tr>" + "".join(f'<td class="{k}{" best" * c.best}">{c.html()}</td>' for k, c in cells) + "</tr>\n"
        return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'

    def latex(self) -> str:
        """A `tabular` in the style of booktabs."""
        columns = "".join("l" if i in self.text_columns else "r" for i in range(len(self.header)))
        lines = [" & ".join(to_latex(h) for h in self.header)]
        lines += [" & ".join(cell.latex() for cell in self._cells(row)) for row in self.rows]
        head, *body = (line + r" \\" for line in lines)
        inner = "\n".join([r"\toprule", head, r"\midrule", *body, r"\bottomrule"])
        return rf"\begin{{tabular}}{{{columns}}}" + f"\n{inner}\n" + r"\end{tabular}"

    def markdown(self) -> str:
        marks = ["---" if i in self.text_columns else "--:" for i in range(len(self.header))]
        lines = [" | ".join(to_markdown(h) for h in self.header), "|".join(marks)]
        lines += [" | ".join(cell.markdown() for cell in self._cells(row)) for row in self.rows]
        return "\n".join(f"| {line} |" for line in lines)


@dataclass(frozen=True)
class Plot:
    """A PNG file, linked relative to the page in Markdown and held by the page itself in HTML."""

    path: Path
    relative: str
    alt: str

    def html(self) -> str:
        data = base64.b64encode(self.path.read_bytes()).decode("ascii")
        return f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}"></figure>'

    def markdown(self) -> str:
        return f"![{to_markdown(quote(self.alt))}]({self.relative})"


@dataclass(frozen=True)
class Drawing:
    """SVG code that the HTML page holds; in Markdown, its description."""

    svg: str
    alt: str

    def html(self) -> str:
        return f'<figure role="img" aria-label="{html.escape(self.alt)}">{self.svg}</figure>'

    def markdown(self) -> str:
        return to_markdown(quote(self.alt))


Block = Heading | Paragraph | Items | Table | Plot | Drawing


def markdown_page(blocks: Sequence[Block]) -> str:
    return "\n\n".join(block.markdown() for block in blocks) + "\n"


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """One file without scripts and without anything to fetch."""
    links = " ".join(
        f'<a href="#{b.anchor}">{to_html(b.text)}</a>' for b in blocks if isinstance(b, Heading) and b.level == 2
    )
    body = [block.html() for block in blocks]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join([body[0], f"<nav>{links}</nav>", *body[1:]])
        + "\n</body>\n</html>\n"
    )


def latex_page(blocks: Sequence[Block]) -> str:
    """The tables, each behind its heading as a comment of one line."""
    parts, heading = ["% \\usepackage{booktabs}"], ""
    for block in blocks:
        if isinstance(block, Heading):
            heading = " ".join(block.text.split())
        elif isinstance(block, Table):
            parts.append(f"% {heading}\n{block.latex()}")
    return "\n\n".join(parts) + "\n"


def write_page(out: Path, title: str, numbers: object, blocks: Callable[[], Sequence[Block]] | None) -> None:
    """Writes `results.json` into a folder, and with blocks `report.md`, `report.html` and the tables in `tables.tex`.

    Args:
        blocks: called when the folder and its `figures` are there.

    Raises:
        RellmError: the files cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "results.json", json.dumps(numbers, indent=1) + "\n")
        if blocks is None:
            return
        (out / "figures").mkdir(exist_ok=True)
        made = blocks()
        write_text(out / "tables.tex", latex_page(made))
        write_text(out / "report.md", markdown_page(made))
        write_text(out / "report.html", html_page(title, made))
    except OSError as error:
        raise disk_error(out, error) from error

"""Sentences and tables laid out for the screen or as Markdown, and a table as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jobs.words import printable

Row = tuple[str, ...]
Block = str | list[Row]
"""A line, or a table whose first row is its head."""

_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "·": r"$\cdot$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def on_screen(blocks: Sequence[Block]) -> str:
    """Lines as they are, and tables in columns of equal width."""
    return "\n".join("\n".join(columns(block)) if isinstance(block, list) else block for block in blocks)


def as_markdown(blocks: Sequence[Block]) -> str:
    """The same as Markdown: each line a paragraph, each indented one an item of a list."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, list):
            parts.append(_markdown_table(block))
        elif block.startswith("  "):
            parts.append(f"- {_escaped(block.strip())}")
        elif block:
            parts.append(_escaped(block.strip()))
    text = "\n\n".join(parts)
    return re.sub(r"(?m)^(- .*)\n\n(?=- )", r"\1\n", text)


def columns(rows: Sequence[Row]) -> list[str]:
    """Columns of equal width, the first to the left, the others to the right; a long last one hangs over."""
    widths = [max(len(row[column]) for row in rows if len(row[column]) < 60) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return lines


def as_latex(rows: Sequence[Row], caption: str) -> str:
    """A table for a paper, with the rules of the package booktabs."""
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _markdown_table(rows: Sequence[Row]) -> str:
    head, *others = ("| " + " | ".join(map(_escaped, row)) + " |" for row in rows)
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([head, rule, *others])


def _escaped(text: str) -> str:
    """Any text, escaped for Markdown and for a cell of a table."""
    return re.sub(r"([\\|`*\[\]])", r"\\\1", printable(text).replace("\n", " ")).replace("<", "&lt;")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in printable(text).replace("\n", " "))

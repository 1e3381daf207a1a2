"""The forms in which commands print: aligned columns for people, JSON for programs."""

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime

NEVER_CUT = {"STATE"}
NARROWEST = 8


def as_json(document: object) -> str:
    """Return a JSON document; times become ISO 8601 in UTC."""
    return json.dumps(document, default=_iso_time, indent=2, ensure_ascii=False)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], ends_in_sentence: bool = False) -> str:
    """Return the rows in columns that are as wide as their longest cell; on a terminal, the widest are cut to fit.

    Args:
        ends_in_sentence: whether the last column holds a sentence. It is never cut: if the terminal is too narrow, it
            is below its row.
    """
    cells = [list(headings), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(headings))]
    columns = _terminal_columns()
    goes_below = ends_in_sentence and 0 < columns < sum(widths) + 2 * (len(widths) - 1)
    sentences = [row.pop() for row in cells] if goes_below else []
    widths = widths[: len(cells[0])]
    while 0 < columns < sum(widths) + 2 * (len(widths) - 1):
        widest = max((width, number) for number, width in enumerate(widths) if headings[number] not in NEVER_CUT)
        if widest[0] <= NARROWEST:
            break
        widths[widest[1]] -= 1
    lines = [
        "  ".join(_cut(text, width).ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    for number, sentence in enumerate(sentences):
        if number and sentence != cell(None):
            lines[number] += f"\n{wrapped(f'    {sentence}', 4)}"
    return "\n".join(lines)


def wrapped(text: str, indent: int) -> str:
    """Return a text whose later lines are indented; on a terminal, its lines fit."""
    columns = _terminal_columns()
    if not columns:
        return text
    return textwrap.fill(text, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def facts(values: Mapping[str, object]) -> str:
    width = max(map(len, values)) + 2
    return "\n".join(f"{name:<{width}}{cell(value)}" for name, value in values.items())


def cell(value: object) -> str:
    """Return a value as one line without control characters, which could change the terminal."""
    if value is None or value == "":
        return "-"
    text = _iso_time(value) if isinstance(value, datetime) else str(value)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _terminal_columns() -> int:
    """Return the width of the terminal; 0 if the output goes to a file or a program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _iso_time(value: datetime) -> str:
    return value.isoformat(timespec="seconds")

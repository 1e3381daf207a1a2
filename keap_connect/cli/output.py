"""The forms in which commands show what they found: aligned columns for people, JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime


def as_json(document: object) -> str:
    """Return one document; times become ISO 8601 in UTC."""
    return json.dumps(document, default=_plain, indent=2, ensure_ascii=False)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows in columns as wide as their longest cell; the last column takes what is left."""
    cells = [list(headings), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(headings))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def facts(values: Mapping[str, object]) -> str:
    """Return names and values, one on each line."""
    width = max(map(len, values)) + 2
    return "\n".join(f"{name:<{width}}{cell(value)}" for name, value in values.items())


def count(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def cell(value: object) -> str:
    """Return a value as one line of text without control characters, which could change the terminal."""
    if value is None or value == "":
        return "-"
    text = value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    raise TypeError(f"{type(value).__name__} has no form in JSON")

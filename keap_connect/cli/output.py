"""How commands show what they found: aligned columns for people, one JSON document for programs."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")


def show_json(document: object) -> None:
    """Print one document; times become ISO 8601 in UTC."""
    click.echo(json.dumps(document, default=_plain, indent=2, ensure_ascii=False))


def show_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns as wide as their longest cell; the last column takes what is left."""
    cells = [list(headings), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(headings))]
    for row in cells:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def show_facts(facts: Mapping[str, object]) -> None:
    """Print names and values, one on each line."""
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        click.echo(f"{name:<{width}}{cell(value)}")


def cell(value: object) -> str:
    """Return a value as one line of text: what others typed may not steer the terminal."""
    if value is None or value == "":
        return "-"
    text = value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    raise TypeError(f"{type(value).__name__} has no form in JSON")

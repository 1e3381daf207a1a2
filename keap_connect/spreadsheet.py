"""CSV for spreadsheets. No cell becomes a formula, whatever somebody typed as a name."""

import csv
import io
from collections.abc import Iterable
from datetime import datetime

# A spreadsheet runs a cell that begins with one of these as a formula, unless an apostrophe is in front.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_line(cells: Iterable[object]) -> str:
    """Return one line with its line break. None becomes an empty cell; times are UTC in ISO 8601."""
    line = io.StringIO()
    csv.writer(line).writerow([safe_cell(cell) for cell in cells])
    return line.getvalue()


def safe_cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    text = "" if value is None else str(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text

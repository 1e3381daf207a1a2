"""CSV that a spreadsheet shows as it is: no cell of it becomes a formula, whatever somebody typed into a name."""

import csv
import io
from collections.abc import Iterable
from datetime import datetime

# Spreadsheets take a cell that begins so for a formula; a leading apostrophe says that it is text.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_line(cells: Iterable[object]) -> str:
    """Return one line, with its end; None becomes an empty cell, times are UTC in ISO 8601."""
    line = io.StringIO()
    csv.writer(line).writerow([safe_cell(cell) for cell in cells])
    return line.getvalue()


def safe_cell(value: object) -> str:
    """Return a value as text that no spreadsheet runs."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    text = "" if value is None else str(value)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text

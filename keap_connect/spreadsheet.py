"""CSV for spreadsheets. No cell becomes a formula, whatever somebody typed as a name."""

import csv
import io
import re
from collections.abc import Iterable
from datetime import datetime

# Before what a spreadsheet runs as a formula if a cell begins with it, unless an apostrophe is in front. In many
# countries a semicolon begins a new cell, and our quotation marks, which are for commas, do not count there.
FORMULA = re.compile(r"""(^|[;\t\r\n])(?=[ "]*[=+@\t\r\n\-\uff1d\uff0b\uff20\uff0d])""")


def csv_line(cells: Iterable[object]) -> str:
    """Return one line with its line break. None becomes an empty cell; times are UTC in ISO 8601."""
    line = io.StringIO()
    csv.writer(line).writerow([safe_cell(cell) for cell in cells])
    return line.getvalue()


def safe_cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    text = "" if value is None else str(value)
    return FORMULA.sub(r"\1'", text)

"""No cell of a CSV file becomes a formula."""

import csv
import io

import pytest

from keap_connect.spreadsheet import csv_line, safe_cell


@pytest.mark.proves("F62")
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "  =", " @"])
def test_what_begins_like_a_formula_becomes_text(start):
    assert safe_cell(f"{start}HYPERLINK(1)") == f"'{start}HYPERLINK(1)"


@pytest.mark.parametrize("plain", ["Acme", "a=b", "7", "", "ab-cd", "'quoted"])
def test_other_text_stays_as_it_is(plain):
    assert safe_cell(plain) == plain


def test_a_line_reads_back_as_the_same_cells():
    cells = ["a,b", 'say "hi"', "two\nlines", None, 7]

    assert next(csv.reader(io.StringIO(csv_line(cells)))) == ["a,b", 'say "hi"', "two\nlines", "", "7"]

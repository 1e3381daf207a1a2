"""No cell of a CSV file becomes a formula."""

import csv
import io

import pytest

from keap_connect.spreadsheet import csv_line, safe_cell


@pytest.mark.proves("F62")
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "  =", " @", "\uff1d"])
def test_what_begins_like_a_formula_becomes_text(start):
    assert safe_cell(f"{start}HYPERLINK(1)") == f"'{start}HYPERLINK(1)"


@pytest.mark.proves("F62")
@pytest.mark.parametrize("separator", [";", '; "', "\t", "\n "])
def test_no_part_of_a_text_becomes_a_formula_where_another_separator_is_usual(separator):
    assert safe_cell(f"Acme{separator}=HYPERLINK(1)") == f"Acme{separator[0]}'{separator[1:]}=HYPERLINK(1)"


@pytest.mark.parametrize("plain", ["Acme", "a;b", "two\nlines", "a, -b", "a=b", "7", "", "ab-cd", "'quoted"])
def test_other_text_stays_as_it_is(plain):
    assert safe_cell(plain) == plain


def test_a_line_reads_back_as_the_same_cells():
    cells = ["a,b", 'say "hi"', "two\nlines", None, 7]

    assert next(csv.reader(io.StringIO(csv_line(cells)))) == ["a,b", 'say "hi"', "two\nlines", "", "7"]

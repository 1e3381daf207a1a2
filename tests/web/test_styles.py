"""The style sheets stay small, and tables are styled by class."""

from pathlib import Path

SHEETS = sorted((Path(__file__).parents[2] / "static" / "css").glob("*.css"))


def test_all_style_sheets_have_at_most_24_kilobytes():
    assert sum(sheet.stat().st_size for sheet in SHEETS) <= 24_000


def test_no_column_is_styled_by_its_number():
    assert [sheet.name for sheet in SHEETS if ":nth-child" in sheet.read_text(encoding="utf-8")] == []

"""Reading a CSV file of credentials: each line becomes a credential, or a reason why it cannot be one.

Spreadsheets write such files in many forms. What cannot be read is refused with the exact reason, and no reason quotes
a line, which may contain a token.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator

from keap_connect.accounts.naming import tidy_name
from keap_connect.connect.importing import ImportedCredential, check_form
from keap_connect.errors import FormRefused, ImportRefused, UnusualKey
from keap_connect.models import CredentialKind

COLUMNS = ("kind", "access_token", "refresh_token", "external_id", "label", "replace")
NEEDED = COLUMNS[:2]
SEPARATORS = ",;\t"
MOST_LINES = 10_000
MOST_BYTES = 4 * 1024 * 1024
csv.field_size_limit(MOST_BYTES)  # a longer value than 128 kB is refused like any other that is too long
YES_OR_NO = {"": False, "no": False, "false": False, "0": False, "yes": True, "true": True, "1": True, "x": True}

Lines = dict[int, ImportedCredential | FormRefused]


def read_file(content: bytes, takes_unusual_keys: bool = False) -> Lines:
    """Return by line number each credential, or why there is none; the `field` of a refusal is the column.

    Raises ImportRefused: the file as a whole cannot be read.
    """
    if len(content) > MOST_BYTES:
        raise _refused(f"The file is larger than {MOST_BYTES // 1024**2} MB.")
    lines: Lines = {}
    first: dict[tuple[str, str], int] = {}
    for number, values in read_table(content, COLUMNS, NEEDED, MOST_LINES):
        try:
            credential = _credential(values, takes_unusual_keys)
            for column in ("access_token", "refresh_token", "external_id"):
                value = getattr(credential, column)
                if value and first.setdefault((column, value), number) != number:
                    raise ImportRefused(f"It is the same as in line {first[column, value]}.", column)
            lines[number] = credential
        except UnusualKey as refusal:
            lines[number] = ImportRefused(f"{refusal} Tick the box for unusual keys, or give --unusual-keys.")
        except FormRefused as refusal:
            lines[number] = refusal
    return lines


def read_table(
    content: bytes, columns: tuple[str, ...], needed: tuple[str, ...], most_lines: int
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield by line number the values of each line, by column; "" for one that is not there.

    A value beyond the named columns is there by the number of its column.

    Raises ImportRefused: the file as a whole cannot be read.
    """
    rows = list(_rows(_decode(content)))
    names = _columns(rows[0][1], columns, needed) if rows else []
    if not 1 < len(rows) <= most_lines + 1:
        raise _refused(
            f"The file has {max(len(rows) - 1, 0):,} lines of accounts; 1 to {most_lines:,} can be imported."
        )
    for number, row in rows[1:]:
        named = {name: value.strip() for name, value in zip(names, row, strict=False)}
        extra = {str(place): value for place, value in enumerate(row, 1) if place > len(names) and value.strip()}
        yield number, dict.fromkeys(columns, "") | named | extra


def _decode(content: bytes) -> str:
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as problem:
        if is_utf_16:
            raise _refused("The file begins as UTF-16 text, but is damaged.") from None
        line = content.count(b"\n", 0, problem.start) + 1
        letter = content[problem.start : problem.start + 1].decode("cp1252", errors="replace")
        raise _refused(
            f"The file is not UTF-8 text: see line {line}, where Windows-1252 has the letter “{letter}”. "
            "Save it as “CSV UTF-8”."
        ) from None
    if "\0" in text:
        raise _refused("The file is not UTF-8 text, but perhaps UTF-16 without its mark. Save it as “CSV UTF-8”.")
    return text


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, with the number of its first line."""
    named = re.match(r'"?sep=([,;\t])"?[,;\t]*\r?\n', text, re.IGNORECASE)  # the first line that Excel reads itself
    if named:
        text, separator = text[named.end() :], named[1]
    else:
        headings = text.lstrip().partition("\n")[0]
        separator = max(SEPARATORS, key=headings.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines_before = 1 if named else 0
    number = lines_before + 1
    try:
        for row in reader:
            if any(value.strip() for value in row):
                yield number, row
            number = reader.line_num + lines_before + 1
    except csv.Error:
        raise _refused(f"The file is not CSV: a quotation mark in line {number} is open or in a wrong place.") from None


def _columns(row: list[str], columns: tuple[str, ...], needed: tuple[str, ...]) -> list[str]:
    """Return the names of the columns, in any case, with blanks or underscores; "" for an empty one."""
    names = [re.sub(r"[\s_]+", "_", name.strip().lower()) for name in row]
    while names and not names[-1]:
        names.pop()
    if not set(names) & set(columns):
        raise _refused(
            f"The first line must name the columns, out of {', '.join(columns)}, "
            "with commas, semicolons or tabs between them."
        )
    for place, name in enumerate(names, 1):
        if name not in columns:
            raise _refused(f"Column {place} has a name that is not one of {', '.join(columns)}.")
        if names.index(name) + 1 != place:
            raise _refused(f"Columns {names.index(name) + 1} and {place} have the same name, {name}.")
    missing = [name for name in needed if name not in names]
    if missing:
        raise _refused(f"The column {' and the column '.join(missing)} is missing.")
    return names


def check_extra(values: dict[str, str]) -> None:
    """Refuse a line with a value beyond the named columns."""
    extra = [place for place in values if place.isdigit()]
    if extra:
        raise ImportRefused("The first line has no name for this column.", extra[0])


def _credential(values: dict[str, str], takes_unusual_keys: bool) -> ImportedCredential:
    check_extra(values)
    kind = re.sub(r"[\s_]+", "_", values["kind"].lower())
    if kind not in set(CredentialKind):
        raise ImportRefused(f"The kind must be one of {', '.join(CredentialKind)}.", "kind")
    replaces = YES_OR_NO.get(values["replace"].lower())
    if replaces is None:
        raise ImportRefused("Write yes or no.", "replace")
    credential = ImportedCredential(
        access_token=values["access_token"],
        refresh_token=values["refresh_token"] or None,
        kind=CredentialKind(kind),
        external_id=tidy_name(values["external_id"]),
        label=tidy_name(values["label"]),
        replaces=replaces,
        takes_unusual_key=takes_unusual_keys,
    )
    check_form(credential)
    return credential


def _refused(message: str) -> ImportRefused:
    return ImportRefused(message, "file")

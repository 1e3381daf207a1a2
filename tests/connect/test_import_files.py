"""Reading a file of credentials: in the forms that spreadsheets write, and with the exact reason where it cannot be."""

import pytest

from keap_connect.connect.import_files import MOST_BYTES, MOST_LINES, read_file
from keap_connect.connect.importing import ImportedCredential
from keap_connect.errors import FormRefused, ImportRefused
from keap_connect.models import CredentialKind

KEY = "KeapAK-" + "k" * 50
ACCESS, REFRESH = "a" * 28, "r" * 32
HEADER = "kind,access_token,refresh_token,external_id,label,replace\n"
SEMICOLONS = f"Kind;Access Token;REFRESH_TOKEN;External  ID;Label;;\nOAuth;{ACCESS};{REFRESH}; c:1 ;Zoë  & Co;;\n"


def refusals(text: str, **choices: bool) -> dict[int, tuple[str, str]]:
    """Return the column and the reason of each line that is refused."""
    lines = read_file(text.encode(), **choices)
    return {number: (one.field, str(one)) for number, one in lines.items() if isinstance(one, FormRefused)}


@pytest.mark.proves("F101")
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (SEMICOLONS.encode(), 2),
        (SEMICOLONS.encode("utf-8-sig"), 2),
        (SEMICOLONS.encode("utf-16"), 2),
        (b"\xfe\xff" + SEMICOLONS.encode("utf-16-be"), 2),
        (SEMICOLONS.replace(";", "\t").encode("utf-16"), 2),
        (SEMICOLONS.replace(";", ",").replace("\n", "\r\n").encode(), 2),
        (b"sep=;\r\n" + SEMICOLONS.replace("\n", "\r\n\r\n").encode(), 4),
        (b'"sep=\t"\n' + SEMICOLONS.replace(";", "\t").encode(), 3),
    ],
    ids=["semicolons", "BOM", "UTF-16", "UTF-16 BE", "tabs", "commas", "sep=;", "sep=tab"],
)
def test_file_of_a_spreadsheet_is_read_whatever_its_form(content: bytes, line: int):
    expected = ImportedCredential(ACCESS, REFRESH, external_id="c:1", label="Zoë & Co")

    assert read_file(content) == {line: expected}


def test_each_line_becomes_what_it_says_and_missing_values_at_its_end_are_empty():
    text = f'{HEADER}oauth,{ACCESS},{REFRESH},,"Dental, bright",yes\nService Account Key,{KEY}\n'

    assert read_file(text.encode()) == {
        2: ImportedCredential(ACCESS, REFRESH, label="Dental, bright", replaces=True),
        3: ImportedCredential(KEY, kind=CredentialKind.SERVICE_ACCOUNT_KEY),
    }


@pytest.mark.proves("F101")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has 0 lines"),
        (b"oauth,abcdefghijkl\n", "first line must name the columns"),
        (HEADER.replace(",", "|").encode(), "with commas, semicolons or tabs between"),
        (b"kind,access_token,secret\n", "Column 3 has a name that is not one of"),
        (b"kind,,access_token\n", "Column 2 has a name"),
        (b"kind,access_token,Kind\n", "Columns 1 and 3 have the same name, kind"),
        (b"kind,label\n", "The column access_token is missing"),
        (HEADER.encode(), "has 0 lines"),
        (HEADER.encode() + b"oauth,x,y,,\n" * (MOST_LINES + 1), "has 10,001 lines of accounts; 1 to 10,000"),
        (HEADER.encode() + b'oauth,abc,,,\noauth,"x\n', "quotation mark in line 3"),
        (HEADER.encode("utf-16-le"), "perhaps UTF-16 without its mark"),
        (b"\xff\xfe" + b"k\0i", "UTF-16 text, but is damaged"),
        (HEADER.encode() + b"oauth,x,y,,Zo\xeb\n", "see line 2, where Windows-1252 has the letter “ë”"),
        (HEADER.encode() + b"\n" * MOST_BYTES, "larger than 4 MB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_such_file_is_refused_as_a_whole_with_the_exact_reason(content: bytes, words: str):
    with pytest.raises(ImportRefused, match=words) as refusal:
        read_file(content)

    assert (refusal.value.field, "abcdefghijkl" in str(refusal.value)) == ("file", False)


def test_refused_line_names_its_column():
    lines = {
        2: f"password,{KEY}",
        3: f"personal_access_token,{KEY},,a b",
        4: f"oauth,{ACCESS},,,,",
        5: f"oauth,{ACCESS},{REFRESH},,,perhaps",
        6: f"oauth,{ACCESS},{REFRESH},,,no,,more",
        7: f"oauth,{ACCESS}2,{REFRESH},c:1",
        8: f"oauth,{ACCESS}2,{REFRESH}3",
        9: f"oauth,{ACCESS}3,{REFRESH}",
        10: f"oauth,{ACCESS}4,{REFRESH}4,c:1",
        11: "personal_access_token,another-key-of-keap",
        12: "service_account_key,",
        13: f"oauth,{ACCESS}5,{REFRESH}5,,{'x' * 200_000}",
    }

    found = refusals(HEADER + "\n".join(lines.values()))

    assert {number: column for number, (column, _) in found.items()} == {
        2: "kind", 3: "external_id", 4: "refresh_token", 5: "replace", 6: "8", 8: "access_token", 9: "refresh_token",
        10: "external_id", 11: "access_token", 12: "access_token", 13: "label",
    }  # fmt: skip
    assert [found[number][1] for number in (8, 9, 10)] == ["It is the same as in line 7."] * 3
    assert not any(secret in str(found) for secret in (KEY, ACCESS, REFRESH, "another-key"))


def test_unusual_keys_are_taken_if_that_is_confirmed_for_the_file():
    text = f"{HEADER}personal_access_token,another-key-of-keap"

    assert "usually begin with KeapAK" in refusals(text)[2][1]
    assert refusals(text, takes_unusual_keys=True) == {}

"""The form of the log: a line for each event, whatever it says, and the reference of the request that led to it."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask

from keap_connect.events.hand_outs import attach_hand_out_log, record_hand_out
from keap_connect.logs import TEXT, JSONLines, Kept, PlainLines, reference
from keap_connect.settings import Settings
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor
from tests.web.fixtures import app, environ, new_app, new_visitor  # noqa: F401

DOCUMENT = (Path(__file__).parent.parent / "docs" / "logs.md").read_text(encoding="utf-8")
HOSTILE = "Ann\r\nFAKE line\x1b[31m red\x9b32m\u2028next \u202eback\x00"


def record_of(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("keap_connect.test", logging.WARNING, "", 0, message, arguments, exc_info)


@pytest.mark.proves("R87")
def test_a_json_line_says_when_how_grave_who_and_what():
    record = record_of("%s of %s", 1, "Ann")
    token = reference.set("8f3a21c0")

    line = json.loads(JSONLines().format(record))
    reference.reset(token)

    assert datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
    assert line == {"level": "WARNING", "logger": "keap_connect.test", "message": "1 of Ann", "reference": "8f3a21c0"}


@pytest.mark.proves("R87", "F68")
@pytest.mark.parametrize("formatter", [JSONLines(), PlainLines(TEXT)], ids=["json", "text"])
def test_what_comes_from_outside_stays_on_its_line_and_colors_nothing(formatter: logging.Formatter):
    written = formatter.format(record_of("connected: %s", HOSTILE))

    assert len(written.splitlines()) == 1
    assert not [one for one in written if ord(one) < 32 or 126 < ord(one) < 160]
    assert "FAKE line" in written


@pytest.mark.proves("R87")
def test_a_line_with_wrong_arguments_raises_nothing(capsys: pytest.CaptureFixture[str]):
    Kept().handle(record_of("%s of %s", 1))

    assert "Logging error" in capsys.readouterr().err


@pytest.mark.proves("R87")
def test_an_exception_is_one_field_of_its_line():
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        written = JSONLines().format(record_of("failed", error=error))

    assert len(written.splitlines()) == 1
    assert written.isascii()
    assert json.loads(written)["exception"].startswith("Traceback (most recent call last):")
    assert sys.exc_info() == (None, None, None)


def documented_fields(title: str) -> list[str]:
    """Return the fields in the table below a heading of docs/logs.md."""
    below = DOCUMENT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", below, re.MULTILINE)


@pytest.mark.proves("R87")
@on_sqlite
def test_the_document_names_each_field_that_is_written(settings: Settings):
    token = reference.set("8f3a21c0")
    line = json.loads(JSONLines().format(record_of("failed", error=ValueError())))
    reference.reset(token)
    bare = Flask("keap_connect")
    attach_hand_out_log(bare, settings)
    with bare.app_context():
        record_hand_out(1, "ab12", "API key 1 (job)", "10.0.0.7", 1)

    assert documented_fields("The log") == list(line)
    assert documented_fields("The audit log") == list(json.loads(settings.audit_log.read_text()))


@pytest.mark.proves("R87", "R89")
@on_sqlite
def test_the_reference_on_an_error_page_stands_in_the_lines_of_its_request(
    visitor: Visitor, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])

    pages = [visitor.get(path).text for path in ("/nothing-here", "/nothing-there")]

    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = [line["reference"] for line in lines if line["logger"] == "keap_connect.web.errors"]
    assert len(set(told)) == 2
    assert [f"<code>{one}</code>" in page for one, page in zip(told, pages, strict=True)] == [True, True]

"""Every hand-out is written down before the token leaves, once, without the token; else nothing leaves."""

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask

from keap_connect.errors import HandOutUnrecorded
from keap_connect.events.hand_outs import LogFile, record_hand_out
from keap_connect.settings import Settings
from tests.api.fixtures import NewProgram, Program
from tests.support.engines import on_sqlite

TOKEN = "/api/v1/accounts/1/token"


def lines(settings: Settings) -> list[dict[str, object]]:
    """Read the audit log."""
    path = settings.audit_log
    assert path is not None
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@on_sqlite
@pytest.mark.proves("R79", "R88", "F68")
def test_each_hand_out_is_one_line_without_the_token(
    settings: Settings, new_program: NewProgram, account_id: int, clock
):
    program = new_program(address="10.0.0.7")
    tokens = [program.get(TOKEN).json() for _ in range(3)]
    program.get(f"{TOKEN}?min_validity=x")
    program.get("/api/v1/accounts/9/token")

    found = lines(settings)
    assert len(found) == 3
    assert datetime.fromisoformat(found[0].pop("at")).utcoffset().total_seconds() == 0
    assert found[0] == {
        "event": "hand_out",
        "account_id": account_id,
        "fingerprint": tokens[0]["fingerprint"],
        "actor": "API key 1 (job)",
        "key_id": 1,
        "address": "10.0.0.7",
    }
    text = settings.audit_log.read_text()
    assert tokens[0]["access_token"] not in text
    assert "kc_" not in text
    assert stat.S_IMODE(settings.audit_log.stat().st_mode) == 0o600


@on_sqlite
@pytest.mark.proves("R79")
@pytest.mark.parametrize("environ", [{"AUDIT_LOG": "/dev/full"}], indirect=True)
def test_a_token_whose_line_cannot_be_written_is_not_handed_out(
    program: Program, account_id: int, caplog: pytest.LogCaptureFixture
):
    answer = program.get(TOKEN)

    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert "access_token" not in answer.text
    assert "Retry-After" in answer.headers
    assert "The audit log cannot be written" in caplog.text


@on_sqlite
@pytest.mark.parametrize("environ", [{"AUDIT_LOG": "-"}], indirect=True)
def test_the_log_may_be_standard_output(program: Program, account_id: int, capfd: pytest.CaptureFixture[str]):
    program.get(TOKEN)

    assert json.loads(capfd.readouterr().out)["event"] == "hand_out"


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("keap_connect.events.hand_outs.LOOK_EVERY_SECONDS", 0.0)
    path = tmp_path / "new" / "audit.log"
    log_file = LogFile(path)

    log_file.add(b"1\n")
    path.rename(tmp_path / "audit.log.1")
    log_file.add(b"2\n")
    path.unlink()
    log_file.add(b"3\n")

    assert (tmp_path / "audit.log.1").read_bytes() == b"1\n"
    assert path.read_bytes() == b"3\n"


@pytest.mark.proves("R104")
def test_each_day_has_a_file_of_its_own_and_old_ones_are_deleted(tmp_path: Path):
    path, now = tmp_path / "audit.log", datetime.now(UTC)
    yesterday = f"{now - timedelta(days=1):%Y-%m-%d}"
    path.write_text(f'{{"at": "{yesterday}T12:00:00.000+00:00"}}\n')  # and a line of this second may be in it already
    for name, days in {"audit.log.1": 9, "audit.log-1.gz": 11, "audit.log.txt": 11}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, ((now - timedelta(days=days)).timestamp(),) * 2)

    def names() -> list[str]:
        return sorted(each.name for each in tmp_path.iterdir())

    LogFile(path).add(b"0\n")
    untouched = names()
    for log in (LogFile(path, keep_days=10), LogFile(path, keep_days=10)):
        log.add(b"new\n")
    rotated = names()
    os.utime(path, ((now - timedelta(days=1)).timestamp(),) * 2)
    LogFile(path, keep_days=10).rotate()

    assert untouched == ["audit.log", "audit.log-1.gz", "audit.log.1", "audit.log.txt"]
    assert rotated == sorted(["audit.log", f"audit.log.{yesterday}", "audit.log.1", "audit.log.txt"])
    assert (tmp_path / f"audit.log.{yesterday}").read_text().endswith("}\n0\n")
    assert (tmp_path / f"audit.log.{yesterday}.2").read_text() == "new\nnew\n"  # a file that is there is never replaced


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log_file, real = LogFile(tmp_path / "audit.log"), os.write
    with monkeypatch.context() as full_disk:
        full_disk.setattr(os, "write", lambda handle, line: real(handle, line[:3]))
        with pytest.raises(OSError, match="full"):
            log_file.add(b"first\n")

    log_file.add(b"second\n")

    assert (tmp_path / "audit.log").read_bytes() == b"fir\nsecond\n"


@on_sqlite
def test_the_caller_hears_of_it(app: Flask, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keap_connect.events.hand_outs.os.write", fail)
    with app.app_context(), pytest.raises(HandOutUnrecorded):
        record_hand_out(1, "0" * 16, "command line")

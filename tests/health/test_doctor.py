"""The doctor finds each fault that it is there for, says what to do, and works when nothing else does."""

import json
import os
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import trustme
from flask import Flask

from keap_connect.access.rate_limits import rate_limits
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.health import files
from keap_connect.health.finding import Health
from keap_connect.health.network import check_database_clock, compare, mark_of
from keap_connect.models import Account, Alarm, Worker
from keap_connect.refresh import recovery
from keap_connect.refresh.clone_guard import confirm_only_one
from keap_connect.refresh.worker import RefreshWorker
from keap_connect.server.checks import check_installation, prepare_to_serve
from keap_connect.settings import Settings
from tests.keap.raw_server import RawServer
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.scripted import scripted
from tests.support.server import free_port
from tests.test_cli import Flasks, flask, said  # noqa: F401
from tests.web.direct import visit

Examine = Callable[..., dict[str, Any]]


@pytest.fixture
def app(settings: Settings, sandbox: Sandbox) -> Iterator[Flask]:
    """Give the app with one account, a worker that was just heard of, and a folder that is closed to others."""
    Path(settings.database_url.removeprefix("sqlite:///")).chmod(0o600)
    built = create_app(settings)
    visit(built, sandbox).connect()
    settings.instance_path.chmod(0o700)
    with built.app_context():
        with write_transaction() as session:
            session.add(Worker(name="here:1", started_at=utc_now(), beat_at=utc_now()))
        yield built
        db.engine.dispose()


def examined(app: Flask) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Return the exit code, and by their subjects the findings that are not well."""
    finished = app.test_cli_runner().invoke(args=["doctor", "--json"])
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(finished.stdout)["findings"]:
        if finding["health"] != "well":
            found.setdefault(finding["subject"], []).append(finding)
    return finished.exit_code, found


@on_sqlite
def test_a_healthy_installation_is_well(app: Flask):
    assert examined(app) == (0, {})

    shown = app.test_cli_runner().invoke(args=["doctor"])

    assert (shown.exit_code, "WRONG" in shown.stdout) == (0, False)
    for subject in ("settings", "database", "keys", "token endpoint", "clock", "worker", "file modes", "disk"):
        assert f"ok     {subject} " in shown.stdout


def silence_the_worker(app: Flask) -> str:
    with write_transaction() as session:
        session.get_one(Worker, "here:1").beat_at = utc_now() - timedelta(minutes=2)
    return "worker"


def let_the_work_wait(app: Flask) -> str:
    with write_transaction() as session:
        session.get_one(Account, 1).next_refresh_at = utc_now() - timedelta(hours=1)
    return "worker"


def raise_an_alarm(app: Flask) -> str:
    with write_transaction() as session:
        session.add(Alarm(name="client_refused", raised_at=utc_now(), reason="Keap refused our client."))
    return "alarms"


def move_the_grants(app: Flask) -> str:
    with write_transaction() as session:
        session.get_one(Account, 1).client_id = "another client"
    return "grants"


def lose_an_account(app: Flask) -> str:
    with write_transaction() as session:
        session.get_one(Account, 1).refused_at = utc_now()
    return "accounts"


def edit_a_refresh_token(app: Flask) -> str:
    with write_transaction() as session:
        account = session.get_one(Account, 1)
        account.refresh_token_sealed, account.next_refresh_at = b"edited", utc_now()
    RefreshWorker(app).run(until_idle=True)
    with write_transaction() as session:
        session.add(Worker(name="here:2", started_at=utc_now(), beat_at=utc_now()))
    return "tokens"


def open_the_folder(app: Flask) -> str:
    folder = app.extensions["keap_connect"].settings.instance_path
    for path in (folder, folder.parent):
        path.chmod(0o755)
    return "file modes"


def open_the_audit_log(app: Flask) -> str:
    audit_log = app.extensions["keap_connect"].settings.audit_log
    audit_log.parent.chmod(0o755)
    audit_log.write_text("")
    audit_log.chmod(0o644)
    return "file modes"


def put_a_folder_in_place_of_the_audit_log(app: Flask) -> str:
    app.extensions["keap_connect"].settings.audit_log.mkdir()
    return "audit log"


def put_a_file_in_place_of_its_folder(app: Flask) -> str:
    settings = app.extensions["keap_connect"].settings
    (settings.instance_path / "in-the-way").write_text("")
    object.__setattr__(settings, "audit_log", settings.instance_path / "in-the-way" / "audit.log")
    return "audit log"


def name_an_audit_log_that_nobody_can_make(app: Flask) -> str:
    object.__setattr__(app.extensions["keap_connect"].settings, "audit_log", Path("/proc/keap-connect/audit.log"))
    return "audit log"


def keep_a_pair(app: Flask) -> str:
    folder = app.extensions["keap_connect"].settings.instance_path / "recovery"
    folder.mkdir(exist_ok=True)
    (folder / "a.pair").write_bytes(b"{}" + b"\0" * 10)
    (folder / "free.pair").write_bytes(b"\0" * 10)
    return "recovery"


def put_a_file_aside(app: Flask) -> str:
    folder = app.extensions["keap_connect"].settings.instance_path / "recovery"
    folder.mkdir(exist_ok=True)
    (folder / "a.broken").write_bytes(b"?")
    return "recovery"


@on_sqlite
def test_pairs_that_are_not_named_are_counted(app: Flask, monkeypatch: pytest.MonkeyPatch):
    folder = app.extensions["keap_connect"].settings.instance_path / "recovery"
    closed = {folder / f"{number}.pair": "It is closed." for number in range(7)}
    monkeypatch.setattr(files, "list_kept", lambda: [*closed, folder / "waits.pair"])
    monkeypatch.setattr(files, "list_closed", lambda: closed)

    with app.app_context():
        sentences = [finding.sentence for finding in files.check_recovery()]

    assert sentences[4].startswith("4.pair: It is closed.")
    assert sentences[5:] == [
        "Further files like these: 2.",
        "New token pairs that wait in files, and are not in the database yet: 1.",
    ]


@on_sqlite
@pytest.mark.parametrize(
    ("harm", "is_wrong"),
    [
        (silence_the_worker, True),
        (let_the_work_wait, False),
        (raise_an_alarm, True),
        (move_the_grants, True),
        (lose_an_account, False),
        (edit_a_refresh_token, True),
        (open_the_folder, True),
        (open_the_audit_log, True),
        (put_a_folder_in_place_of_the_audit_log, True),
        (put_a_file_in_place_of_its_folder, True),
        (name_an_audit_log_that_nobody_can_make, True),
        (keep_a_pair, True),
        (put_a_file_aside, True),
    ],
)
def test_each_fault_is_found_alone_with_advice(app: Flask, harm: Callable[[Flask], str], is_wrong: bool):
    subject = harm(app)

    code, found = examined(app)

    subjects = [subject, "accounts"] if harm is move_the_grants else [subject]  # the account is at risk, too
    assert (code, list(found), len(found[subject])) == (int(is_wrong), subjects, 1)
    assert found[subject][0]["health"] == ("wrong" if is_wrong else "attention")
    assert found[subject][0]["advice"]


def let_a_newer_program_use_the_database(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    with db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")


def damage_the_file(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    db.engine.dispose()
    for path in Path(db.engine.url.database).parent.glob("keap_connect.db*"):
        path.unlink()
    Path(db.engine.url.database).write_bytes(b"not a database" * 1000)


def close_the_file(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != db.engine.url.database and access(path, mode))


@on_sqlite
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (let_a_newer_program_use_the_database, "is newer than this program"),
        (damage_the_file, "is damaged (file is not a database)"),
        (close_the_file, "cannot be written by this user"),
    ],
)
def test_a_database_that_nothing_can_use_is_said_by_every_command_in_words_and_json(
    app: Flask, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Flask, pytest.MonkeyPatch], None], words: str
):
    harm(app, monkeypatch)
    run = app.test_cli_runner().invoke

    code, found = examined(app)
    refusals = [run(args=[*command, "--json"]) for command in (("accounts", "list"), ("db", "upgrade"))]

    assert (code, words in found["database"][0]["sentence"]) == (1, True)
    for refusal in refusals:
        assert refusal.exit_code == 1
        assert words in json.loads(refusal.stdout)["error_description"]


@on_sqlite
def test_files_that_are_closed_and_redis_away_are_found(app: Flask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "list_kept", lambda: os.listdir("/nowhere"))
    monkeypatch.setattr(rate_limits().strategy.storage, "check", lambda: False)

    code, found = examined(app)

    assert (code, set(found)) == (1, {"files", "rate limits"})
    assert "/nowhere" in found["files"][0]["sentence"]


@on_sqlite
def test_a_recovery_file_of_another_user_is_found(app: Flask, monkeypatch: pytest.MonkeyPatch):
    folder = app.extensions["keap_connect"].settings.instance_path / "recovery"
    folder.mkdir()
    (folder / "a.pair").write_bytes(b"\0")
    monkeypatch.setattr(recovery.os, "access", lambda *_: False)  # root may read all

    code, found = examined(app)

    assert (code, [one["sentence"] for one in found["recovery"]]) == (
        1,
        [f"Recovery files that this user cannot read and write: 1, such as {folder / 'a.pair'}."],
    )


@on_sqlite
def test_a_fault_of_the_program_is_a_sentence_and_json(app: Flask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("keap_connect.cli.health.examine", lambda: {}["what nobody foresaw"])

    finished = app.test_cli_runner().invoke(args=["doctor", "--json"])

    assert finished.exit_code == 1
    assert "KeyError" in json.loads(finished.stdout)["error_description"]
    assert "Traceback" not in finished.stderr


@on_sqlite
@pytest.mark.proves("R98")
def test_client_addresses_that_cannot_be_true_are_found_and_said_at_the_start(
    app: Flask, caplog: pytest.LogCaptureFixture
):
    settings = app.extensions["keap_connect"].settings
    object.__setattr__(settings, "public_url", "https://connect.example.com")
    confirm_only_one("test")  # a new PUBLIC_URL is asked about
    _, without_proxies = examined(app)
    object.__setattr__(settings, "trusted_proxies", 1)
    _, well = examined(app)
    mark_of(settings).touch(0o600)
    _, without_header = examined(app)
    prepare_to_serve(settings)
    yesterday = (utc_now() - timedelta(hours=25)).timestamp()
    os.utime(mark_of(settings), (yesterday, yesterday))
    _, well_again = examined(app)

    assert (well, well_again) == ({}, {})
    assert "TRUSTED_PROXIES is 0" in without_proxies["client address"][0]["sentence"]
    assert "X-Forwarded-For" in without_header["client address"][0]["sentence"]
    assert without_header["client address"][0]["sentence"] in caplog.text


@on_sqlite
def test_a_token_endpoint_that_is_away_or_ill_is_found_and_presented_nothing(app: Flask, sandbox: Sandbox):
    sandbox.clear_ledger()
    well, _ = examined(app)
    presented = sandbox.ledger()["presentations"]
    keap = app.extensions["keap_connect"].settings.keap
    with scripted(lambda _: (503, {})) as ill_keap:
        object.__setattr__(keap, "token_url", f"{ill_keap.url}/token")
        ill, found_ill = examined(app)
    away_url = f"http://127.0.0.1:{free_port()}"
    object.__setattr__(keap, "token_url", f"{away_url}/token")
    away, found_away = examined(app)
    object.__setattr__(app.extensions["keap_connect"].settings, "sandbox_url", away_url)
    _, found_without_sandbox = examined(app)

    assert [(one.method, one.body, one.bearer) for one in ill_keap.asked] == [("GET", b"", "")]
    assert presented == []
    assert (well, ill, away) == (0, 1, 1)
    assert "503" in found_ill["token endpoint"][0]["sentence"]
    assert "cannot be reached" in found_away["token endpoint"][0]["sentence"]
    assert "firewall" in found_away["token endpoint"][0]["advice"]
    assert "The sandbox does not run" in found_without_sandbox["token endpoint"][0]["advice"]


@on_sqlite
@pytest.mark.proves("F100")
def test_a_proxy_that_is_not_used_is_found_unless_nothing_leaves_this_machine(app: Flask):
    settings = app.extensions["keap_connect"].settings
    object.__setattr__(settings, "has_unused_proxy", True)
    at_the_sandbox = examined(app)
    object.__setattr__(settings.keap, "token_url", f"https://{'x' * 64}.example/token")
    _, found = examined(app)

    assert at_the_sandbox == (0, {})
    assert "HTTPS_PROXY is set and KEAP_PROXY is not" in found["proxy"][0]["sentence"]
    assert "Could not resolve host" in found["token endpoint"][0]["sentence"]
    assert "KEAP_PROXY" in found["token endpoint"][0]["advice"]


@on_sqlite
def test_a_misspelled_setting_is_named_by_doctor_and_at_start(app: Flask):
    object.__setattr__(app.extensions["keap_connect"].settings, "misspelled", {"TOKEN_KEY": "TOKEN_KEYS"})
    code, found = examined(app)

    assert code == 0
    assert found["settings"][0]["advice"] == "If you mean TOKEN_KEYS, rename it."
    assert "TOKEN_KEY is no setting and has no effect. If you mean TOKEN_KEYS, rename it." in check_installation()


@on_sqlite
@pytest.mark.proves("F100", "F20")
def test_the_authority_of_a_certificate_that_is_not_accepted_is_named(app: Flask):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA(organization_name="Acme Inspection").issue_cert("localhost").configure_cert(context)
    with RawServer(tls=context) as inspecting:
        object.__setattr__(app.extensions["keap_connect"].settings.keap, "token_url", f"{inspecting.url}/token")
        _, found = examined(app)

    assert "certificate was not accepted" in found["token endpoint"][0]["sentence"]
    assert "issued by O = Acme Inspection" in found["token endpoint"][0]["sentence"]
    assert "KEAP_CA_FILE" in found["token endpoint"][0]["advice"]


MOUNT = "36 35 98:0 / {} rw,noatime shared:1 master:2 - {} server:/export rw"


@on_sqlite
@pytest.mark.parametrize(
    ("mounts", "kinds"),
    [
        ([], []),
        ([("INSTANCE", "nfs4")], ["INSTANCE_PATH: nfs4"]),
        ([("FOLDER", "cifs")], ["INSTANCE_PATH: cifs", "SQLite: cifs"]),
        ([("FOLDER", "fuse.sshfs"), ("INSTANCE", "xfs")], ["SQLite: fuse.sshfs"]),
        ([("FOLDER", "nfs"), ("FOLDER", "ext4")], []),
        ([("FOLDER", "fuse.fuse-overlayfs"), ("FOLDER/elsewhere", "nfs")], []),
    ],
)
def test_a_network_file_system_is_found_and_said_at_the_start(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mounts, kinds
):
    tmp_path = app.extensions["keap_connect"].settings.instance_path.parent
    settings, table = app.extensions["keap_connect"].settings, tmp_path / "mountinfo"
    places = {"INSTANCE": str(settings.instance_path), "FOLDER": str(tmp_path), "FOLDER/elsewhere": f"{tmp_path}/else"}
    lines = [MOUNT.format("/", "ext4"), *(MOUNT.format(places[place], kind) for place, kind in mounts)]
    table.write_text("\n".join(lines))
    monkeypatch.setattr(files, "MOUNTS", table)

    code, found = examined(app)
    prepare_to_serve(settings)
    worker = app.test_cli_runner().invoke(args=["worker", "--once"])

    findings = found.get("file system", [])
    assert (code, [one["health"] for one in findings]) == (0, ["attention"] * len(kinds))
    for finding, kind in zip(findings, kinds, strict=True):
        name, _, type_ = kind.partition(": ")
        assert name in finding["sentence"]
        assert f"({type_})" in finding["sentence"]
        assert finding["sentence"] in caplog.text
        assert finding["sentence"] in worker.stderr


def test_a_folder_with_a_space_in_its_name_is_found_among_the_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mountinfo").write_text(MOUNT.format("/", "ext4") + "\n" + MOUNT.format(r"/mnt/my\040files", "9p"))
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "mountinfo")

    assert files._shared_kind(Path("/mnt/my files/not there yet/app.db")) == "9p"
    assert files._shared_kind(Path("/mnt/my")) is None


@pytest.mark.parametrize(("seconds", "health"), [(0, "well"), (-29, "well"), (31, "wrong"), (-31, "wrong")])
def test_clocks_may_differ_by_half_a_minute(seconds: int, health: str):
    assert compare("clock", seconds).health == Health(health)


@on_postgresql
def test_the_clock_of_postgresql_is_compared_with_ours(settings: Settings, clock):
    built = create_app(settings)
    with built.app_context():
        agreeing = list(check_database_clock())
        clock.advance(minutes=5)
        differing = list(check_database_clock())
        db.engine.dispose()

    assert [one.health for one in agreeing + differing] == [Health.WELL, Health.WRONG]
    assert "300 seconds ahead" in differing[0].sentence or "299" in differing[0].sentence


@on_sqlite
@pytest.mark.proves("F86")
def test_a_disk_that_is_full_or_cannot_be_written_is_found(app: Flask, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(files.tempfile, "TemporaryFile", Mock(side_effect=PermissionError(13, "Permission denied")))
        closed, found_closed = examined(app)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    full, found_full = examined(app)

    assert (closed, set(found_closed), full, set(found_full)) == (1, {"disk", "audit log"}, 1, {"disk"})
    assert "cannot be written (Permission denied)" in found_closed["disk"][0]["sentence"]
    assert "cannot be written (Permission denied)" in found_closed["audit log"][0]["sentence"]
    assert "nothing is refreshed" in found_full["disk"][0]["advice"]


@on_sqlite
def test_without_a_database_the_rest_is_still_looked_at(environ: dict[str, str], sandbox: Sandbox, tmp_path: Path):
    def look(url: str) -> dict[str, list[dict[str, str]]]:
        app = create_app(Settings.from_env({**environ, "DATABASE_URL": url}), serves=False)
        code, found = examined(app)
        with app.app_context():
            db.engine.dispose()
        assert code == 1
        return found

    nowhere = look(f"sqlite:///{tmp_path / 'no such folder' / 'a.db'}")
    empty = look(f"sqlite:///{tmp_path / 'empty.db'}")

    assert "does not answer" in nowhere["database"][0]["sentence"]
    assert "db upgrade" in empty["database"][0]["sentence"]
    assert [set(found) for found in (nowhere, empty)] == [{"database", "workers"}] * 2


@on_sqlite
def test_wrong_settings_are_findings_too(flask: Flasks):  # noqa: F811
    finished = flask("doctor", SECRET_KEY="", TOKEN_KEYS="short", DATABASE_URL="postgresql://db/name?sslmod=require")

    assert finished.returncode == 1
    assert "SECRET_KEY must be" in finished.stdout
    assert "TOKEN_KEYS: key 1 must be" in finished.stdout
    assert "Did you mean sslmode?" in finished.stdout
    assert said(finished) == ""

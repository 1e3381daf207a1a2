"""The commands as an operator types them: plain sentences, exit codes, and never a traceback."""

import base64
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from keap_connect import counters
from keap_connect.access import admins, passwords
from keap_connect.access.api_keys import verify_api_key
from keap_connect.accounts.changes import disconnect
from keap_connect.accounts.credentials import fingerprint, open_access_token
from keap_connect.accounts.directory import get_account
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.errors import APIKeyRefused
from keap_connect.events.search import Search, list_events
from keap_connect.health.figures import read_health
from keap_connect.jobs.records import stop_job
from keap_connect.jobs.runner import JobRunner
from keap_connect.models import Account
from keap_connect.refresh import alarms
from keap_connect.refresh.heartbeat import beat_as_server, process_name, retire
from keap_connect.refresh.serving import refresh_account
from keap_connect.settings import Settings
from tests.accounts.granted import store_account
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.support.engines import on_sqlite
from tests.support.sandbox import ANN, BEN, CLEO, Sandbox
from tests.web.direct import visit

pytestmark = on_sqlite

ROOT = Path(__file__).parent.parent
OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()
NOT_OURS = ("KEAP_", "ADMIN_", "TOKEN_", "SECRET_", "DATABASE_", "PUBLIC_", "INSTANCE_", "TRUSTED_", "FLASK_")

HOW_TO_RUN = {"capture_output": True, "text": True, "timeout": 60}
Finished = subprocess.CompletedProcess[str]
Flasks = Callable[..., Finished]


@pytest.fixture
def flask(environ: dict[str, str], ready_command: list[str]) -> Flasks:
    """Give the function that runs `./keap-connect …` in the environment of the tests."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
    elsewhere = Path(environ["INSTANCE_PATH"]).parent

    def run(*arguments: str, typed: str = "", **changes: str) -> Finished:
        inside, command = {**outside, **environ, "LOG_LEVEL": "INFO", **changes}, [*ready_command, *arguments]
        return subprocess.run(command, env=inside, input=typed, cwd=elsewhere, check=False, **HOW_TO_RUN)

    return run


@pytest.fixture
def app(settings: Settings, sandbox: Sandbox) -> Iterator[Flask]:
    """Give the app on the same database, with one account in it."""
    built = create_app(settings)
    visit(built, sandbox).connect()
    yield built
    with built.app_context():
        db.engine.dispose()


def said(finished: Finished) -> str:
    """Return what went to standard error, in one line; it is never a traceback."""
    assert "Traceback" not in finished.stderr + finished.stdout
    return " ".join(finished.stderr.split())


def access_token(app: Flask) -> str | None:
    """Return the stored access token."""
    with app.app_context():
        return open_access_token(get_account(1))


def create_admin(flask: Flasks, *options: str, email: str = ADMIN_EMAIL, password: str = ADMIN_PASSWORD) -> Finished:
    """Type a password into `admins create`."""
    return flask("admins", "create", "--email", email, "--password-stdin", *options, typed=password + "\n")


def test_the_first_admin_is_made_once_and_can_sign_in(flask: Flasks, settings: Settings):
    password = "  spaces and ünïcode 🔑  "
    first = create_admin(flask, "--only-first", email=" Admin@Example.COM ", password=password)
    again = create_admin(flask, "--only-first", email="other@example.com")
    app = create_app(settings)
    visitor = visit(app)
    visitor.sign_in(ADMIN_EMAIL, password)
    with app.app_context():
        db.engine.dispose()

    assert (first.returncode, first.stdout) == (0, "Admin admin@example.com was created.\n")
    assert (again.returncode, again.stdout) == (3, "There is an admin already.\n")
    assert visitor.page.url.endswith("/accounts")
    assert password.strip() not in first.stdout + first.stderr


@pytest.mark.proves("R51", "R53")
def test_a_link_on_the_terminal_lets_somebody_choose_their_own_password(flask: Flasks, settings: Settings):
    made = flask("admins", "create", "--email", ADMIN_EMAIL, "--role", "viewer", "--with-link")
    reset = flask("admins", "reset-password", "--email", ADMIN_EMAIL.upper(), "--second-factor-off")
    nobody = flask("admins", "sign-in-code", "--email", "nobody@example.com")
    listed = flask("admins", "list")
    app = create_app(settings)
    visitor = visit(app)
    links = [made.stdout.strip(), reset.stdout.strip()]
    statuses = [visitor.choose_password(link, "a password of mine", follow=False).status_code for link in links]
    visitor.sign_in(ADMIN_EMAIL, "a password of mine")
    with app.app_context():
        db.engine.dispose()

    assert statuses == [404, 303]  # the newer link replaced the older one
    assert visitor.page.url.endswith("/accounts")
    assert said(made) == "This link lets them choose a password, once, within 3 days."
    assert said(reset) == "This link lets them choose a password, once, within a day."
    assert said(nobody) == "Error: There is no admin nobody@example.com."
    assert listed.stdout.splitlines()[1].split() == ["1", "viewer", "-", ADMIN_EMAIL]


def test_a_sign_in_code_on_the_terminal_is_one_that_is_accepted(app: Flask):
    with app.app_context():
        admins.create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)

    code, document = in_process(app, "admins", "sign-in-code", "--email", ADMIN_EMAIL.upper())

    with app.app_context():
        verified = passwords.verify_password(ADMIN_EMAIL, ADMIN_PASSWORD, "192.0.2.1", sign_in_code=document["code"])
    assert (code, verified and verified.email) == (0, ADMIN_EMAIL)


@pytest.mark.proves("R51")
def test_the_first_admin_gets_a_new_link_until_they_have_used_one(app: Flask):
    def invite(email: str = ADMIN_EMAIL) -> tuple[int, Any]:
        return in_process(app, "admins", "create", "--only-first", "--with-link", "--email", email)

    (_, first), (_, second) = invite(), invite()
    visitor = visit(app)
    assert visitor.get(first["url"]).status_code == 404
    assert invite("other@example.com") == (3, {"email": "other@example.com", "is_created": False})

    visitor.choose_password(second["url"], ADMIN_PASSWORD)
    chosen, _ = invite()
    app.test_cli_runner().invoke(args=["emergency-stop", "--yes"])
    stopped, _ = invite()

    assert visitor.page.url.endswith("/signin")
    assert (chosen, stopped) == (3, 3)


def test_an_admin_who_cannot_be_made_is_explained_in_one_sentence(flask: Flasks):
    short = create_admin(flask, password="elevenchars")
    no_address = create_admin(flask, email="somebody")
    create_admin(flask)
    twice = create_admin(flask, email=ADMIN_EMAIL.upper())

    assert [one.returncode for one in (short, no_address, twice)] == [1, 1, 1]
    assert said(short) == "Error: The password needs at least 12 characters."
    assert said(no_address) == "Error: Enter an e-mail address, such as ann@example.com."
    assert said(twice) == "Error: admin@example.com is an admin already."


def test_a_password_that_is_asked_for_is_asked_for_twice_and_not_shown(flask: Flasks):
    differing = flask("admins", "create", "--email", ADMIN_EMAIL, typed="a password of mine\nanother one here\n")
    equal = flask("admins", "create", "--email", ADMIN_EMAIL, typed="a password of mine\n" * 2)

    assert (differing.returncode, "do not match" in differing.stdout + differing.stderr) == (1, True)
    assert equal.returncode == 0
    assert "a password of mine" not in equal.stdout + equal.stderr


def test_accounts_are_listed_and_searched_on_one_line_each(flask: Flasks, app: Flask):
    everything = flask("accounts", "list")
    found, nothing = (app.test_cli_runner().invoke(args=["accounts", "list", text]) for text in ("acme", "zz"))
    refused = app.test_cli_runner().invoke(args=["accounts", "list", "%"])

    headings, line = everything.stdout.splitlines()
    assert line.split() == ["1", "active", "ab123", "-", "ann.lee@example.com", "Acme", "Plumbing", "-"]
    assert headings.index("TITLE") == line.index("Acme")
    assert found.stdout == everything.stdout
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert (refused.exit_code, refused.stdout) == (0, "")
    assert "Type letters or digits" in refused.stderr


def test_one_account_is_shown_with_its_history_and_without_its_tokens(flask: Flasks, app: Flask):
    shown = flask("accounts", "show", "1")

    facts = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert (facts["state"], facts["tenant_id"], facts["person_name"]) == ("active", "ab123", "Ann Lee")
    assert "Connected by Ann Lee." in shown.stdout
    assert (access_token(app) or "?") not in shown.stdout


def test_token_prints_the_token_and_nothing_else(flask: Flasks, app: Flask):
    printed = flask("accounts", "token", "1", LOG_LEVEL="DEBUG", AUDIT_LOG="-")

    assert (printed.returncode, printed.stdout) == (0, f"{access_token(app)}\n")
    assert printed.stdout.strip() not in printed.stderr
    assert '"event": "hand_out"' in printed.stderr


def test_refresh_stores_a_new_pair_and_says_so(flask: Flasks, app: Flask):
    before = access_token(app)

    finished = flask("accounts", "refresh", "1")

    assert (finished.returncode, finished.stdout) == (0, "Refreshed: new tokens are stored.\n")
    assert access_token(app) not in {before, None}


def test_a_refresh_that_fails_says_why_and_keeps_the_tokens(flask: Flasks, app: Flask, sandbox: Sandbox):
    before = access_token(app)
    sandbox.fault("status", status=503, body="<h1>down</h1>")

    finished = flask("accounts", "refresh", "1")

    assert (finished.returncode, finished.stdout) == (4, "")
    assert "Error: Keap answered 503 (an HTML page)." in said(finished)
    assert access_token(app) == before


def test_a_refresh_that_keap_refuses_once_is_not_final_and_says_when_it_is_tried_again(app: Flask, sandbox: Sandbox):
    sandbox.fault("refused_although_valid")

    refused = app.test_cli_runner().invoke(args=["accounts", "refresh", "1"])
    too_soon = app.test_cli_runner().invoke(args=["accounts", "refresh", "1"])

    assert [one.exit_code for one in (refused, too_soon)] == [4, 4]
    assert refused.stderr.endswith("It is tried again in a minute, before it counts.\n")
    assert re.search(r"rests before it is tried again in \d+ s\.$", too_soon.stderr.strip())


def test_disconnect_asks_first_and_then_forgets(flask: Flasks, app: Flask):
    changed_mind = app.test_cli_runner().invoke(args=["accounts", "disconnect", "1"], input="n\n")
    kept = access_token(app)
    done = flask("accounts", "disconnect", "1", "--yes")
    token_afterwards = flask("accounts", "token", "1")

    assert (changed_mind.exit_code, kept is not None) == (1, True)
    assert (done.returncode, done.stdout.startswith("Disconnected.")) == (0, True)
    assert access_token(app) is None
    assert (token_afterwards.returncode, token_afterwards.stdout) == (5, "")
    assert said(token_afterwards) == "Error: This account was disconnected; its tokens are deleted."


def test_refreshing_all_names_those_that_fail(app: Flask, sandbox: Sandbox):
    counters.take()  # of other tests
    runner = app.test_cli_runner()
    done = runner.invoke(args=["accounts", "refresh", "--all"])
    sandbox.fault("html_503")
    failed = runner.invoke(args=["accounts", "refresh", "--all"])
    unclear = [runner.invoke(args=["accounts", "refresh", *arguments]).exit_code for arguments in ([], ["1", "--all"])]

    with app.app_context():
        health = read_health()
    assert [sum(values) for values in zip(*((one.refreshed, one.failed) for one in health.hours), strict=True)] == [
        1,
        1,
    ]
    assert sum(health.leads) == 1
    assert (done.exit_code, done.stdout.endswith("All are refreshed.\n")) == (0, True)
    assert (failed.exit_code, "Account 1: Keap answered 503 (an HTML page)." in failed.stdout) == (4, True)
    assert unclear == [2, 2]


@pytest.mark.parametrize("account_id", ["2", str(10**30)])
def test_an_unknown_account_is_one_sentence_for_every_command(app: Flask, account_id: str):
    runner = app.test_cli_runner()
    for command in (["show"], ["token"], ["refresh"], ["disconnect", "--yes"]):
        finished = runner.invoke(args=["accounts", *command, account_id])

        assert (finished.exit_code, finished.stdout) == (1, "")
        assert finished.stderr == f"Error: There is no account {account_id}.\n"


# Programs that read the answers


def in_process(app: Flask, *arguments: str) -> tuple[int, Any]:
    """Run a command with --json inside this process; return its exit code and the one document it printed."""
    finished = app.test_cli_runner().invoke(args=[*arguments, "--json"])
    return finished.exit_code, json.loads(finished.stdout)


def test_an_account_may_be_named_by_the_id_its_owner_gave_it(app: Flask):
    with app.app_context(), write_transaction() as session:
        session.get_one(Account, 1).external_id = "acme:7"

    _, shown = in_process(app, "accounts", "show", "external:acme:7")
    unknown, refusal = in_process(app, "accounts", "show", "external:nobody")
    no_name = app.test_cli_runner().invoke(args=["accounts", "show", "acme!"])

    assert (shown["id"], shown["external_id"], shown["events"][0]["kind"]) == (1, "acme:7", "connected")
    assert (unknown, refusal["error"]) == (1, "not_found")
    assert no_name.exit_code == 2


def test_an_account_is_named_from_the_command_line(app: Flask, sandbox: Sandbox):
    with app.app_context():
        store_account(sandbox, person_id=BEN)

    done, named = in_process(app, "accounts", "name", "1", "--label", " The  Dentist ", "--external-id", "acme")
    _, unnamed = in_process(app, "accounts", "name", "external:acme", "--label", "")
    taken, refusal = in_process(app, "accounts", "name", "2", "--external-id", "acme")
    nothing = app.test_cli_runner().invoke(args=["accounts", "name", "1"])

    assert (done, named["label"], named["external_id"]) == (0, "The Dentist", "acme")
    assert (unnamed["label"], unnamed["external_id"]) == (None, "acme")
    assert (taken, refusal["error"]) == (1, "external_id_taken")
    assert nothing.exit_code == 2


def test_an_account_may_be_named_by_its_tenant_if_it_is_the_only_one(app: Flask, sandbox: Sandbox):
    _, shown = in_process(app, "accounts", "show", "AB123.infusionsoft.com")
    with app.app_context():
        second = store_account(sandbox, person_id=BEN)
    code, refusal = in_process(app, "accounts", "show", "ab123")
    _, events = in_process(app, "audit", "list", "--account", "ab123")
    erased, _ = in_process(app, "accounts", "erase", str(second), "--yes")
    _, left = in_process(app, "audit", "list", "--account", f"#{second}")

    assert shown["id"] == 1
    assert (code, refusal["error"], refusal["is_retryable"]) == (1, "account_ambiguous", False)
    assert f"[1, {second}]" in refusal["error_description"]
    assert {event["account_id"] for event in events} == {1}
    assert (erased, [event["kind"] for event in left]) == (0, ["erased"])


def test_a_token_comes_as_the_token_api_gives_it(app: Flask):
    code, served = in_process(app, "accounts", "token", "1")

    assert code == 0
    assert served["access_token"] == access_token(app)
    assert (served["state"], served["token_type"], served["tenant_id"]) == ("active", "bearer", "ab123")
    assert served["fingerprint"] == fingerprint(served["access_token"])
    assert datetime.fromisoformat(served["expires_at"]) > utc_now() + timedelta(seconds=served["expires_in"] - 5)


def test_the_exit_code_tells_a_job_to_come_back_later_or_to_call_a_person(app: Flask, sandbox: Sandbox):
    sandbox.fault("status", status=503, first=1)
    later, told = in_process(app, "accounts", "refresh", "1")
    too_long = app.test_cli_runner().invoke(args=["accounts", "token", "1", "--min-validity", "3601"])
    with app.app_context():
        disconnect(1, "a test")
    person, forgotten = in_process(app, "accounts", "token", "1")

    assert (later, told["error"], told["retry_after_seconds"]) == (4, "temporarily_unavailable", 30)
    assert told["is_retryable"] is True
    assert (too_long.exit_code, too_long.stdout) == (2, "")
    assert (person, forgotten["error"], forgotten["is_retryable"]) == (5, "disconnected", False)


def test_lists_and_sweeps_are_one_document_too(flask: Flasks, app: Flask):
    listed, accounts = in_process(app, "accounts", "list", "--state", "active")
    none, nothing = in_process(app, "accounts", "list", "--state", "at_risk")
    swept, done = in_process(app, "accounts", "refresh", "--all")
    one = in_process(app, "accounts", "refresh", "1")
    gone, _ = in_process(app, "accounts", "disconnect", "1", "--yes")
    idle, left = in_process(app, "accounts", "refresh", "--all")
    worked = flask("worker", "--once", "--json")

    assert (listed, [one["title"] for one in accounts]) == (0, ["Acme Plumbing"])
    assert not any("masked" in name for name in accounts[0])
    assert (none, nothing) == (0, [])
    assert (swept, done) == one == (0, {"refreshed": [1], "failed": [], "left": 0})
    assert (gone, idle, left["refreshed"]) == (0, 3, [])
    assert json.loads(worked.stdout) == {"refreshed": 0, "failed": 0, "faults": 0, "paused_by": []}


def test_the_history_is_listed_and_pruned_only_when_told_twice(app: Flask, clock: MovedClock):
    runner = app.test_cli_runner()
    _, listed = in_process(app, "audit", "list", "--account", "1")
    in_process(app, "accounts", "refresh", "1")  # the newest event of stored tokens is never deleted
    young = runner.invoke(args=["audit", "prune", "--older-than", "29d", "--yes"])
    nothing, _ = in_process(app, "audit", "prune", "--older-than", "400d")
    clock.advance(days=401)
    changed_mind = runner.invoke(args=["audit", "prune", "--older-than", "400d"], input="n\n")
    done, pruned = in_process(app, "audit", "prune", "--older-than", "400d", "--yes")
    left = runner.invoke(args=["audit", "list"])

    assert [one["kind"] for one in listed] == ["connected"]
    assert (young.exit_code, nothing, changed_mind.exit_code) == (2, 3, 1)
    assert (done, pruned) == (0, {"pruned": 1})
    newest, pair = left.stdout.splitlines()[1:]
    assert "deleted from the history: 1." in newest
    assert "Refreshed: new tokens are stored." in pair


def test_a_file_is_imported_after_a_dry_run_and_exported_without_tokens(app: Flask, sandbox: Sandbox, tmp_path: Path):
    runner = app.test_cli_runner()
    granted = sandbox.grant("cd456", ANN)[0]
    lines = (
        f"kind,access_token,refresh_token,label\noauth,{granted['access_token']},{granted['refresh_token']},Dentist\n"
    )
    bad = runner.invoke(args=["accounts", "import", "-", "--dry-run"], input=lines + "oauth,,,\n")
    looked_at = runner.invoke(args=["accounts", "import", "-", "--dry-run", "--json"], input=lines)
    unchanged = list_accounts_of(app)
    (tmp_path / "credentials.csv").write_text(lines)
    code, imported = in_process(app, "accounts", "import", str(tmp_path / "credentials.csv"))
    exported = runner.invoke(args=["accounts", "export"])
    to_file = runner.invoke(args=["accounts", "export", str(tmp_path / "accounts.csv")])

    assert (bad.exit_code, "Line 3, access_token:" in bad.stdout, unchanged) == (1, True, ["Acme Plumbing"])
    assert "Dentist" in bad.stdout
    assert [line["tenant_id"] for line in json.loads(looked_at.stdout)["lines"]] == ["cd456"]
    assert (code, imported) == (0, {"job": 3, "refused": [], "waiting": 0, "stopped": 0, "imported": [2]})
    assert list_accounts_of(app) == ["Acme Plumbing", "Dentist"]
    assert [line.split(",")[2] for line in exported.stdout.splitlines()] == ["tenant_id", "ab123", "cd456"]
    assert granted["access_token"] not in exported.stdout
    assert (to_file.stdout, (tmp_path / "accounts.csv").read_text()) == ("", exported.stdout)
    assert f"All accounts are in {tmp_path}/accounts.csv, without tokens." in to_file.stderr
    assert exported.stderr == ""


def test_an_import_that_somebody_stops_is_not_called_done(
    app: Flask, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    granted = sandbox.grant("cd456", ANN)[0]
    line = f"kind,access_token,refresh_token\noauth,{granted['access_token']},{granted['refresh_token']}\n"
    monkeypatch.setattr(JobRunner, "_do_next", lambda _self, job: stop_job(job.id, "a test"))

    stopped = app.test_cli_runner().invoke(args=["accounts", "import", "-"], input=line)

    assert (stopped.exit_code, stopped.stdout) == (1, "Imported: 0 accounts.\n")
    assert "The job was stopped at /jobs/1 with 1 lines left." in stopped.stderr


def test_a_file_that_fails_is_named(app: Flask, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("keap_connect.cli.accounts.export_csv", lambda _actor: ["x" * 100_000])

    for words, said in (("import /proc/self/mem", "cannot be read (In"), ("export /dev/full", "is not complete (No")):
        failed = app.test_cli_runner().invoke(args=["accounts", *words.split()])
        assert (failed.exit_code, said in failed.stderr) == (1, True), failed.stderr


def test_an_export_without_a_database_leaves_the_file_as_it_is(flask: Flasks, app: Flask, tmp_path: Path):
    (tmp_path / "accounts.csv").write_text("yesterday's")

    failed = flask("accounts", "export", str(tmp_path / "accounts.csv"), DATABASE_URL=f"sqlite:///{tmp_path}/no/db")
    no_folder = flask("accounts", "export", str(tmp_path / "no" / "accounts.csv"))

    assert (failed.returncode, (tmp_path / "accounts.csv").read_text()) == (4, "yesterday's")
    assert (no_folder.returncode, "No such file or directory" in said(no_folder)) == (1, True)
    with app.app_context():
        assert "exported" not in {event.kind for event in list_events(Search()).rows}


def test_a_line_whose_access_token_has_expired_is_imported_with_a_word_about_it(app: Flask, sandbox: Sandbox):
    granted = sandbox.grant("cd456", ANN)[0]
    sandbox.advance(25 * 3600)
    line = f"kind,access_token,refresh_token\noauth,{granted['access_token']},{granted['refresh_token']}\n"

    done = app.test_cli_runner().invoke(args=["accounts", "import", "-"], input=line)

    assert done.exit_code == 0
    assert done.stdout.startswith("Imported: 1 account.\nLine 2: Stored. Keap refuses its access token")


def list_accounts_of(app: Flask) -> list[str]:
    return sorted(account["title"] for account in in_process(app, "accounts", "list")[1])


def test_a_key_is_shown_once_listed_and_revoked(app: Flask):
    made, issued = in_process(app, "api-keys", "create", "sync", "--account", "1", "--expires-in", "30d")
    listed = app.test_cli_runner().invoke(args=["api-keys", "list"])
    with app.app_context():
        known = verify_api_key(issued["key"])
    changed_mind = app.test_cli_runner().invoke(args=["api-keys", "revoke", "1"], input="n\n")
    revoked, _ = in_process(app, "api-keys", "revoke", "1", "--yes")
    again, _ = in_process(app, "api-keys", "revoke", "1")
    missing, refusal = in_process(app, "api-keys", "revoke", "99", "--yes")
    wrong = app.test_cli_runner().invoke(args=["api-keys", "create", "sync", "--scope", "everything"])

    assert (made, issued["scopes"], issued["account_ids"]) == (0, ["tokens:read"], [1])
    assert known.may_see(1)
    assert "usable" in listed.stdout
    assert issued["key"] not in listed.stdout
    assert (changed_mind.exit_code, revoked, again) == (1, 0, 3)
    assert (missing, refusal["error"], wrong.exit_code) == (1, "not_found", 2)
    with app.app_context(), pytest.raises(APIKeyRefused):
        verify_api_key(issued["key"])


def test_ctrl_c_lets_the_refresh_under_way_end_and_begins_no_other(
    app: Flask, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    visit(app, sandbox).connect(tenant="cd456")

    def interrupted(account_id: int, actor: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        refresh_account(account_id, actor)

    monkeypatch.setattr("keap_connect.cli.accounts.refresh_account", interrupted)
    code, told = in_process(app, "accounts", "refresh", "--all")

    assert (code, len(told["refreshed"]), told["failed"], told["left"]) == (1, 1, [], 1)


def test_a_list_is_whole_however_long_and_ends_at_its_limit(
    app: Flask, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    with app.app_context():
        store_account(sandbox, tenant_id="cd456", person_id=BEN)
        store_account(sandbox, tenant_id="ef789", person_id=CLEO)
    monkeypatch.setattr("keap_connect.accounts.exporting.ROWS_AT_ONCE", 2)

    listed = [in_process(app, "accounts", "list", *limit)[1] for limit in ([], ["--limit", "1"])]

    assert [[one["id"] for one in each] for each in listed] == [[1, 2, 3], [1]]
    assert app.test_cli_runner().invoke(args=["accounts", "list", "--limit", str(10**20)]).exit_code == 2


def test_a_reconnect_link_is_printed_and_works_in_any_browser(app: Flask, sandbox: Sandbox):
    printed = app.test_cli_runner().invoke(args=["accounts", "reconnect-link", "1"])
    code, made = in_process(app, "accounts", "reconnect-link", "1")
    missing, refusal = in_process(app, "accounts", "reconnect-link", "999")

    customer = visit(app, sandbox)
    for url in (printed.stdout.strip(), made["url"]):
        path = url.removeprefix(customer.base_url)
        assert (path[:3], customer.get(path).status_code) == ("/r/", 200)
    assert (code, missing, refusal["error"]) == (0, 1, "not_found")


def test_what_customers_typed_cannot_steer_the_terminal(app: Flask):
    with app.app_context(), write_transaction() as session:
        session.get_one(Account, 1).label = "\x1b[2J\x07\u202eAcme"

    listed = app.test_cli_runner().invoke(args=["accounts", "list"])

    assert "\x1b" not in listed.stdout
    assert "\ufffd[2J\ufffd\ufffdAcme" in listed.stdout


def test_status_tells_people_and_scripts_what_pauses_refreshing(app: Flask):
    run = app.test_cli_runner().invoke
    code, going = in_process(app, "refreshing", "status")
    nothing = run(args=["refreshing", "resume"])
    with app.app_context(), write_transaction() as session:
        alarms.raise_alarm(session, alarms.CLIENT_REFUSED, "Keap refused our client.")
        alarms.raise_alarm(session, alarms.UNKNOWN_INSTANCE, "It may be a copy.")
    paused = run(args=["refreshing", "status"])
    resumed = run(args=["refreshing", "resume"])
    confirmed = run(args=["refreshing", "confirm-only-one"])
    history = app.test_cli_runner().invoke(args=["audit", "list"]).stdout

    assert (code, going) == (0, {"is_paused": False, "workers": 0, "pauses": []})
    assert (nothing.exit_code, paused.exit_code, resumed.exit_code, confirmed.exit_code) == (3, 4, 4, 0)
    for text in ("Keap refused our client.", "refreshing resume", "It may be a copy.", "confirm-only-one", "all"):
        assert text in paused.stdout
    assert ("Keap refused" in resumed.stdout, "a copy" in resumed.stdout) == (False, True)
    assert confirmed.stdout.startswith("Refreshing is not paused. Workers: none is running")
    assert history.count("Refreshing was resumed") == 2


# When it cannot work


def test_a_broken_seal_is_one_sentence(flask: Flasks, app: Flask, database_url: str):
    connection = sqlite3.connect(database_url.removeprefix("sqlite:///"))
    connection.execute("UPDATE account SET access_token_sealed = x'01020304050607'")
    connection.commit()
    connection.close()

    finished = flask("accounts", "token", "1")

    assert finished.returncode == 1
    log, error = finished.stderr.splitlines()
    assert "WARNING" in log
    assert error.startswith("Error: account:1:access_token was sealed with a key that is not in TOKEN_KEYS.")


def test_a_database_without_tables_is_one_sentence_that_says_what_to_do(flask: Flasks, tmp_path: Path):
    for command in ("accounts list", "worker --once", "refreshing confirm-only-one"):
        finished = flask(*command.split(), DATABASE_URL=f"sqlite:///{tmp_path / 'empty.db'}")

        assert (finished.returncode, finished.stdout) == (1, "")
        assert said(finished).startswith("Error: The database has no tables yet")
        assert said(finished).endswith("run `./keap-connect db upgrade`.")


def test_no_command_about_admins_or_accounts_runs_without_tables(environ: dict[str, str], tmp_path: Path):
    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    app = create_app(Settings.from_env({**environ, "DATABASE_URL": empty}), serves=False)
    commands = (
        ("admins", "create", "--email", ADMIN_EMAIL, "--password-stdin"),
        ("admins", "list"),
        ("admins", "reset-password", "--email", ADMIN_EMAIL),
        ("accounts", "list"),
        *(("accounts", command, "1") for command in ("show", "token", "refresh", "reconnect-link")),
        ("accounts", "refresh", "--all"),
        ("accounts", "disconnect", "1", "--yes"),
    )
    for arguments in commands:
        finished = app.test_cli_runner().invoke(args=arguments, input=ADMIN_PASSWORD + "\n")

        assert (finished.exit_code, finished.stdout) == (1, ""), arguments
        assert finished.stderr.startswith("Error: The database has no tables yet"), arguments
    with app.app_context():
        db.engine.dispose()


def test_a_database_that_is_not_there_or_of_another_key_is_one_sentence(flask: Flasks, app: Flask, tmp_path: Path):
    nowhere = flask("accounts", "list", DATABASE_URL=f"sqlite:///{tmp_path / 'no such folder' / 'a.db'}")
    stopped = flask("accounts", "list", DATABASE_URL=f"postgresql://keap:canary-password@/x?host={tmp_path}")
    other_key = flask("accounts", "token", "1", TOKEN_KEYS=OTHER_KEY)

    assert [one.returncode for one in (nowhere, stopped, other_key)] == [4, 4, 1]
    assert [one.stdout for one in (nowhere, stopped, other_key)] == ["", "", ""]
    assert "does not answer" in said(nowhere)
    assert ("does not answer" in said(stopped), "canary-password" in stopped.stderr) == (True, False)
    assert said(other_key).startswith("Error: TOKEN_KEYS does not open what is stored in this database")


def test_a_database_that_fails_midway_is_one_sentence(app: Flask, database_url: str):
    connection = sqlite3.connect(database_url.removeprefix("sqlite:///"))
    connection.execute("ALTER TABLE account_event RENAME TO gone")
    connection.close()

    finished = app.test_cli_runner().invoke(args=["accounts", "show", "1"])

    assert (finished.exit_code, finished.stderr) == (
        4,
        "Error: The database fails: no such table: account_event. Try again in a minute.\n",
    )


def test_a_table_fits_its_terminal_and_shows_the_reason(app: Flask, monkeypatch: pytest.MonkeyPatch):
    with app.app_context(), write_transaction() as session:
        account = session.get_one(Account, 1)
        account.label, account.refused_at, account.failure_reason = "Dentist " * 20, utc_now(), "Keap said no."
    piped = app.test_cli_runner().invoke(args=["accounts", "list"]).stdout
    monkeypatch.setattr("keap_connect.cli.command._terminal_columns", lambda: 80)

    shown = app.test_cli_runner().invoke(args=["accounts", "list"]).stdout
    events = app.test_cli_runner().invoke(args=["audit", "list"]).stdout

    assert "Keap refused the refresh token for good. Keap said no." in piped
    assert ("Dentist " * 20).strip() in piped
    assert {len(line) <= 80 for line in [*shown.splitlines(), *events.splitlines()]} == {True}
    assert "…" in shown
    assert "  reconnect_required  " in shown
    assert "\n    Keap refused the refresh token for good. Keap said no.\n" in shown
    assert "Connected by Ann Lee." in events


@pytest.mark.parametrize(
    "words",
    ["accounts disconnect 1", "accounts erase 1", "db downgrade 0014", "token-keys drop-unreadable", "emergency-stop"],
)
def test_a_question_is_no_part_of_the_document(flask: Flasks, app: Flask, words: str):
    asked = flask(*words.split(), "--json", typed="n\n")

    assert (asked.returncode, json.loads(asked.stdout)["error"]) == (1, "aborted")
    assert said(asked).endswith("? [y/N]: Aborted.")


@pytest.mark.parametrize(
    "words", ["accounts name 1 --label", "audit list --who", "invitations create --note", "admins sign-in-code --email"]
)
def test_an_argument_that_is_no_text_is_wrong_use(flask: Flasks, app: Flask, words: str):
    refused = flask(*words.split(), os.fsdecode(b"Z\xe4hne"), "--json")

    assert (refused.returncode, json.loads(refused.stdout)["error"]) == (2, "invalid_request")
    assert "it is not UTF-8 text." in said(refused)


def test_an_output_of_another_encoding_gets_what_it_can_show(app: Flask, environ: dict[str, str]):
    with app.app_context(), write_transaction() as session:
        session.get_one(Account, 1).label = "Zähne 🦷"
    latin = {"PATH": os.environ["PATH"], **environ, "PYTHONIOENCODING": "latin-1"}

    def listed(*options: str) -> str:
        command = [sys.executable, "-m", "keap_connect", "accounts", "list", *options]
        return subprocess.run(command, env=latin, cwd=ROOT, check=True, capture_output=True).stdout.decode("latin-1")

    assert "Zähne \\U0001f9b7" in listed()
    assert json.loads(listed("--json"))[0]["label"] == "Zähne 🦷"


def test_wrong_settings_and_wrong_use_are_json_where_it_is_asked_for(flask: Flasks):
    settings = flask("accounts", "list", "--json", SECRET_KEY="")
    use = flask("accounts", "list", "--json", "--state", "nonsense")

    assert (settings.returncode, use.returncode) == (1, 2)
    assert "SECRET_KEY must be" in json.loads(settings.stdout)["error_description"]
    assert "nonsense" in json.loads(use.stdout)["error_description"]


def test_wrong_settings_are_all_named_before_any_command_runs(flask: Flasks):
    finished = flask("accounts", "list", SECRET_KEY="", TOKEN_KEYS="short")

    assert finished.returncode == 1
    assert "SECRET_KEY must be" in said(finished)
    assert "TOKEN_KEYS: key 1 must be" in said(finished)


@pytest.mark.proves("F42")
def test_a_downgrade_asks_first_and_refuses_living_processes_and_what_was_never_released(app: Flask):
    def said_to(*arguments: str) -> tuple[int, str]:
        done = app.test_cli_runner().invoke(args=["db", "downgrade", *arguments])
        return done.exit_code, done.output

    with app.app_context():
        beat_as_server()

    code, output = said_to("0014")
    assert (code, "Delete what only newer versions know, for good?" in output) == (1, True), output
    for revision in ("base", "0004"):
        assert said_to(revision, "--yes")[1].startswith(f"Error: There is no way back to revision {revision}")
    code, output = said_to("0014", "--yes")
    assert (code, f"End these processes first: {process_name()}." in output) == (4, True), output
    with app.app_context():
        retire(process_name())
    assert said_to("0014", "--yes") == (0, "The tables are those of revision 0014.\n")

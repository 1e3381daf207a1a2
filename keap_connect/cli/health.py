"""`./keap-connect doctor`, `support`, `refreshing …` and `emergency-stop`: what is wrong, and how a pause ends."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TypeVar

import click
from flask.cli import ScriptInfo

from keap_connect.cli.command import Answer, asks, cell, command, facts, group, table, wrapped
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import ExitCode, SettingsError
from keap_connect.events.history import Actor
from keap_connect.health.examination import examine, list_wrong_settings
from keap_connect.health.finding import Health
from keap_connect.health.refreshing import read_refreshing
from keap_connect.health.support import support_text, support_text_without_app
from keap_connect.models import CLIENT_REFUSED
from keap_connect.refresh import alarms
from keap_connect.refresh.clone_guard import confirm_only_one

MARKS = {Health.WELL: "ok", Health.ATTENTION: "look", Health.WRONG: "WRONG", Health.UNKNOWN: "?"}
Found = TypeVar("Found")
refreshing = group("refreshing", "Whether accounts are refreshed, and how to continue after a pause.")
UNDO = """\
Nobody is signed in, no password and no API key works, and nothing is refreshed. When the danger is over:
  ./keap-connect admins reset-password --email you@example.com   # for each admin
  ./keap-connect api-keys create nightly-sync                    # for each program
  ./keap-connect refreshing confirm-only-one
If database and TOKEN_KEYS may both be stolen, the accounts above must also be withdrawn at Keap and reconnected."""
NAMES = ("id", "tenant_id", "external_id", "person_email", "title")


@command("doctor", "", "--json", checks_database=False, with_appcontext=False)
@click.pass_context
def doctor(ctx: click.Context) -> Answer:
    """Check settings, database, keys, clocks, the way to Keap, workers, files and disk; exit code 1 if one is wrong.

    It works with wrong settings and without a database too, sends no secret anywhere, and changes nothing.
    """
    findings = _in_app(ctx, examine, list_wrong_settings)
    is_wrong = any(finding.health is Health.WRONG for finding in findings)
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        sentence = f"{MARKS[finding.health]:<6} {finding.subject:<{width}}  {cell(finding.sentence)}"
        lines.append(wrapped(sentence, width + 9))
        if finding.advice:
            lines.append(wrapped(f"{'':<6} {'':<{width}}  -> {cell(finding.advice)}", width + 12))
    document = {"is_well": not is_wrong, "findings": [asdict(finding) for finding in findings]}
    return Answer(document, "\n".join(lines), code=ExitCode.FAILED if is_wrong else ExitCode.DONE)


@command("support", "--json", checks_database=False, with_appcontext=False)
@click.pass_context
def support(ctx: click.Context) -> Answer:
    """Print versions, settings without secrets, checks and last failures, for those who help you.

    It works with wrong settings and without a database too, sends no secret anywhere, and changes nothing.
    """
    text = _in_app(ctx, lambda: support_text(None, {}), support_text_without_app)
    return Answer({"text": text}, text)


def _in_app(ctx: click.Context, look: Callable[[], Found], look_without: Callable[[Sequence[str]], Found]) -> Found:
    """Return what `look` finds in the app; with wrong settings there is none, so the other gets what is wrong."""
    try:
        app = ctx.ensure_object(ScriptInfo).load_app()
    except SettingsError as refusal:
        return look_without(refusal.problems)
    with app.app_context():
        return look()


@command("status", "", "--json", within=refreshing)
def status() -> Answer:
    """Say whether refreshing is paused, since when, why, for which accounts, and what to do; exit code 4 if it is."""
    return _status()


@command("resume", "", "--json", within=refreshing)
def resume() -> Answer:
    """Continue after a mass refusal or a refused client; what was counted before is forgotten."""
    was_paused = alarms.resume([alarms.MASS_REFUSAL, CLIENT_REFUSED], Actor.COMMAND_LINE)
    return _status(ExitCode.DONE if was_paused else ExitCode.NOTHING_TO_DO)


@command("confirm-only-one", "", "--json", within=refreshing)
def confirm() -> Answer:
    """Confirm that no other installation uses these accounts: after a restore, a move, or an emergency stop."""
    confirm_only_one(Actor.COMMAND_LINE)
    return _status()


def _status(code: ExitCode = ExitCode.DONE) -> Answer:
    now = read_refreshing()
    pauses = [asdict(one) for one in now.pauses]
    document = {"is_paused": bool(pauses), "workers": len(now.workers), "pauses": pauses}
    if now.pauses:
        text = (
            {"Paused since": one.since, "Why": one.reason, "Accounts": one.accounts, "What to do": one.advice}
            for one in now.pauses
        )
        return Answer(document, "\n".join(map(facts, text)), code=ExitCode.COME_BACK_LATER)
    running = f"{len(now.workers)} running" if now.workers else "none is running; start one: ./keap-connect worker"
    return Answer(document, f"Refreshing is not paused. Workers: {running}.", code=code)


@command("emergency-stop", "", "--yes --json")
@asks("End all sign-ins, passwords and API keys, and pause refreshing?")
def emergency_stop() -> Answer:
    """End all sign-ins, passwords, API keys and links, pause refreshing, and list whose consent may be stolen."""
    rows = [[getattr(account, name) for name in NAMES] for account in stop_everything(Actor.COMMAND_LINE)]
    document = {"accounts": [dict(zip(NAMES, row, strict=True)) for row in rows]}
    return Answer(document, table(("ID", "TENANT", "EXTERNAL ID", "PERSON", "TITLE"), rows), UNDO)

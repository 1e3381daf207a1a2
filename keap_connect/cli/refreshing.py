"""`./keap-connect refreshing …` and `emergency-stop`: whether accounts are refreshed, and how a pause ends."""

from dataclasses import asdict

import click

from keap_connect.cli.command import Answer, command, facts, group, table
from keap_connect.emergency_stop import stop_everything
from keap_connect.errors import ExitCode
from keap_connect.events.history import Actor
from keap_connect.health.refreshing import read_refreshing
from keap_connect.models import CLIENT_REFUSED
from keap_connect.refresh import alarms
from keap_connect.refresh.clone_guard import confirm_only_one

refreshing = group("refreshing", "Whether accounts are refreshed, and how to continue after a pause.")
UNDO = """\
Nobody is signed in, no password and no API key works, and nothing is refreshed. When the danger is over:
  ./keap-connect admins reset-password --email you@example.com   # for each admin
  ./keap-connect api-keys create nightly-sync                    # for each program
  ./keap-connect refreshing confirm-only-one
If database and TOKEN_KEYS may both be stolen, the accounts above must also be withdrawn at Keap and reconnected."""
NAMES = ("id", "tenant_id", "external_id", "person_email", "title")


@command("status", "refreshing status", "refreshing status --json", within=refreshing)
def status() -> Answer:
    """Say whether refreshing is paused, since when, why, for which accounts, and what to do; exit code 4 if it is."""
    return _status()


@command("resume", "refreshing resume", "refreshing resume --json", within=refreshing)
def resume() -> Answer:
    """Continue after a mass refusal or a refused client; what was counted before is forgotten."""
    was_paused = alarms.resume([alarms.MASS_REFUSAL, CLIENT_REFUSED], Actor.COMMAND_LINE)
    return _status(ExitCode.DONE if was_paused else ExitCode.NOTHING_TO_DO)


@command("confirm-only-one", "refreshing confirm-only-one", "refreshing confirm-only-one --json", within=refreshing)
def confirm() -> Answer:
    """Confirm that no other installation uses these accounts: after a restore, a move, or an emergency stop."""
    confirm_only_one(Actor.COMMAND_LINE)
    return _status()


def _status(code: ExitCode = ExitCode.DONE) -> Answer:
    now = read_refreshing()
    document = {
        "is_paused": bool(now.pauses),
        "workers": len(now.workers),
        "pauses": [asdict(one) for one in now.pauses],
    }
    if now.pauses:
        text = (
            {"Paused since": one.since, "Why": one.reason, "Accounts": one.accounts, "What to do": one.advice}
            for one in now.pauses
        )
        return Answer(document, "\n".join(map(facts, text)), code=ExitCode.COME_BACK_LATER)
    running = f"{len(now.workers)} running" if now.workers else "none is running; start one: ./keap-connect worker"
    return Answer(document, f"Refreshing is not paused. Workers: {running}.", code=code)


@command("emergency-stop", "emergency-stop", "emergency-stop --yes --json")
@click.confirmation_option(prompt="End all sign-ins, passwords and API keys, and pause refreshing?")
def emergency_stop() -> Answer:
    """End all sign-ins, passwords, API keys and links, pause refreshing, and list whose consent may be stolen."""
    rows = [[getattr(account, name) for name in NAMES] for account in stop_everything(Actor.COMMAND_LINE)]
    document = {"accounts": [dict(zip(NAMES, row, strict=True)) for row in rows]}
    return Answer(document, table(("ID", "TENANT", "EXTERNAL ID", "PERSON", "TITLE"), rows), UNDO)

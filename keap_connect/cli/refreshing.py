"""`./keap-connect refreshing …`: whether refresh tokens are presented, why not, and how that ends."""

import sys

import click
from flask.cli import AppGroup

from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_facts, show_json
from keap_connect.events.history import Actor
from keap_connect.models import Alarm
from keap_connect.refresh import alarms
from keap_connect.refresh.clone_guard import confirm_only_one
from keap_connect.refresh.heartbeat import list_workers

MOST_SHOWN = 20

refreshing = AppGroup("refreshing", help="Whether accounts are refreshed, and how that goes on after a pause.")


@refreshing.command("status", epilog=help_with("refreshing status", "refreshing status --json"))
@json_option
@plainly
def status(as_json: bool) -> None:
    """Say whether refreshing is paused, since when, why, for which accounts, and what to do; exit code 4 if it is."""
    _show_status(as_json)


@refreshing.command("resume", epilog=help_with("refreshing resume", "refreshing resume --json"))
@json_option
@plainly
def resume(as_json: bool) -> None:
    """Go on after a mass refusal or a refused client; what was counted before is forgotten."""
    was_paused = alarms.resume([alarms.MASS_REFUSAL, alarms.CLIENT_REFUSED], Actor.COMMAND_LINE)
    _show_status(as_json, ExitCode.DONE if was_paused else ExitCode.NOTHING_TO_DO)


@refreshing.command(
    "confirm-only-one", epilog=help_with("refreshing confirm-only-one", "refreshing confirm-only-one --json")
)
@json_option
@plainly
def confirm(as_json: bool) -> None:
    """Confirm that no other installation uses these accounts: after a restore, a move, or an emergency stop."""
    confirm_only_one(Actor.COMMAND_LINE)
    _show_status(as_json)


def _show_status(as_json: bool, code: ExitCode = ExitCode.DONE) -> None:
    raised, workers = alarms.list_alarms(), len(list_workers())
    pauses = [
        {
            "name": alarm.name,
            "since": alarm.raised_at,
            "reason": alarm.reason,
            "account_ids": _concerned(alarm),
            "advice": alarms.ADVICE[alarm.name],
        }
        for alarm in raised
    ]
    if as_json:
        show_json({"is_paused": bool(pauses), "workers": workers, "pauses": pauses})
    elif pauses:
        for alarm in raised:
            facts = {"Paused since": alarm.raised_at, "Why": alarm.reason, "Accounts": _shown(_concerned(alarm))}
            show_facts({**facts, "What to do": alarms.ADVICE[alarm.name]})
    else:
        running = f"{workers} running" if workers else "none is running; start one: ./keap-connect worker"
        click.echo(f"Refreshing is not paused. Workers: {running}.")
    sys.exit(ExitCode.COME_BACK_LATER if pauses else code)


def _concerned(alarm: Alarm) -> list[int] | None:
    return alarms.list_refused(alarm) if alarm.name == alarms.MASS_REFUSAL else None


def _shown(account_ids: list[int] | None) -> str:
    if account_ids is None:
        return "all"
    more = len(account_ids) - MOST_SHOWN
    return ", ".join(map(str, account_ids[:MOST_SHOWN])) + (f" and {more} more" if more > 0 else "")

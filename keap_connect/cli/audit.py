"""`./keap-connect audit …`: the history from a shell, and the one way in which old rows leave it."""

import sys
from dataclasses import asdict
from datetime import timedelta

import click
from flask.cli import AppGroup

from keap_connect.accounts.naming import find_account_id
from keap_connect.cli.accounts import AccountName
from keap_connect.cli.ages import Days
from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_json, show_table
from keap_connect.events.deleting import LEAST_KEPT, count_older, prune_history
from keap_connect.events.history import EventKind
from keap_connect.events.search import Search, list_events

audit = AppGroup("audit", help="Who did what to which account, when and from where.")


@audit.command("list", epilog=help_with("audit list --who ann@example.com", "audit list --account 7 --json"))
@click.option("--kind", type=click.Choice([kind.value for kind in EventKind]), help="Only events of this kind.")
@click.option("--account", type=AccountName(), help="Only those of this account.")
@click.option("--who", default="", help="A part of who did it, or of the address they came from.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@json_option
@plainly
def list_(kind: str | None, account: str | None, who: str, limit: int, as_json: bool) -> None:
    """List events, newest first."""
    account_id = find_account_id(account) if account else None
    rows = list_events(Search(kind, account_id, who=who), limit=limit).events
    if as_json:
        show_json([asdict(row) for row in rows])
    else:
        table = [(row.at, row.actor, row.address, row.account_id, row.sentence) for row in rows]
        show_table(("WHEN", "WHO", "FROM", "ACCOUNT", "WHAT"), table)


@audit.command("prune", epilog=help_with("audit prune --older-than 400d", "audit prune --older-than 400d --yes"))
@click.option(
    "--older-than", type=Days(LEAST_KEPT), required=True, help="In days, such as 400d; the last 30 days always stay."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@plainly
def prune(older_than: timedelta, yes: bool, as_json: bool) -> None:
    """Delete old events for good, and write down in the history that it was done."""
    old = count_older(older_than)
    if old and not yes:
        click.confirm(f"Delete {old} events for good?", abort=True, err=as_json)
    pruned = prune_history(older_than)
    if as_json:
        show_json({"pruned": pruned})
    else:
        click.echo(f"{pruned} events were deleted, and the history says so." if pruned else "Nothing is that old.")
    sys.exit(ExitCode.DONE if pruned else ExitCode.NOTHING_TO_DO)

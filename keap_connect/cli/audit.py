"""`./keap-connect audit …`: the history, and the deletion of old events."""

from dataclasses import asdict
from datetime import timedelta

import click

from keap_connect.accounts.naming import find_ids_in_history
from keap_connect.cli.command import AccountName, Answer, Days, command, confirm, group, table
from keap_connect.errors import ExitCode
from keap_connect.events.deleting import LEAST_KEPT, count_older, prune_history
from keap_connect.events.history import EventKind
from keap_connect.events.search import Search, list_events

audit = group("audit", "Who did what to which account, when and from where.")


@command("list", "--who ann@example.com", "--account 7 --json", within=audit)
@click.option("--kind", type=click.Choice([kind.value for kind in EventKind]), help="Only events of this kind.")
@click.option("--account", type=AccountName(), help="Only those of this account.")
@click.option("--who", default="", help="A part of who did it, or of the address they came from.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
def list_(kind: str | None, account: str | None, who: str, limit: int) -> Answer:
    """List events, newest first."""
    only = find_ids_in_history(account) if account else None
    page = list_events(Search(kind, only=only, who=who), limit=limit)
    events = list(page.rows)
    while page.next_cursor and len(events) < limit:
        page = list_events(Search(kind, only=only, who=who), page.next_cursor, limit - len(events))
        events += page.rows
    rows = [(event.at, event.actor, event.address, event.account_id, event.sentence) for event in events]
    return Answer(
        [asdict(event) for event in events],
        table(("WHEN", "WHO", "FROM", "ACCOUNT", "WHAT"), rows, ends_in_sentence=True),
    )


@command("prune", "--older-than 400d", "--older-than 400d --yes", within=audit)
@click.option(
    "--older-than", type=Days(LEAST_KEPT), required=True, help="In days, such as 400d; the last 30 days always stay."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(older_than: timedelta, yes: bool) -> Answer:
    """Delete old events for good, and record in the history that it was done."""
    old = count_older(older_than)
    if old and not yes:
        confirm(f"Delete old events for good ({old})?")
    pruned = prune_history(older_than)
    text = f"Deleted: {pruned}. The history says so." if pruned else "Nothing is that old."
    return Answer({"pruned": pruned}, text, code=ExitCode.DONE if pruned else ExitCode.NOTHING_TO_DO)

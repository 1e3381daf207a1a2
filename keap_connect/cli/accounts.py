"""`./keap-connect accounts …`: the connected Keap accounts, one by one and in files."""

import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import BinaryIO, TextIO

import click
from flask import current_app

from keap_connect.accounts.changes import change_account
from keap_connect.accounts.changes import disconnect as disconnect_account
from keap_connect.accounts.changes import erase as erase_account
from keap_connect.accounts.directory import AccountView, count_matching, list_refreshable_ids, view_account
from keap_connect.accounts.exporting import export_csv, list_in_pieces
from keap_connect.accounts.naming import find_account_id
from keap_connect.accounts.state import AccountState
from keap_connect.cli.command import (
    AccountName,
    Answer,
    account_argument,
    asks,
    cell,
    command,
    confirm,
    facts,
    group,
    table,
    wants_json,
)
from keap_connect.connect.import_files import COLUMNS, MOST_BYTES
from keap_connect.connect.reconnect_links import make_link
from keap_connect.errors import ExitCode, KeapConnectError
from keap_connect.events.hand_outs import record_hand_out
from keap_connect.events.history import Actor
from keap_connect.events.search import Search, list_events
from keap_connect.jobs.bulk import start_bulk
from keap_connect.jobs.imports import start_import
from keap_connect.jobs.records import ItemOutcome, JobView, list_items
from keap_connect.jobs.runner import JobRunner
from keap_connect.models import LARGEST_ID, JobKind
from keap_connect.refresh.due import reserve_calls
from keap_connect.refresh.serving import refresh_account, valid_token
from keap_connect.refresh.timing import LONGEST_VALIDITY_SECONDS
from keap_connect.services import services
from keap_connect.signals import on_stop

MASKED = ("access_token_masked", "refresh_token_masked")
AT_KEAP = "To end the access at Keap too, remove this app, or delete the key, in Keap's API settings."

accounts = group("accounts", "The connected Keap accounts.")
SHOWN = ("kind", "tenant_id", "business_name", "person", "label", "external_id", "updates")


@command("list", "", "acme --state at_risk", "--json", within=accounts)
@click.argument("text", default="")
@click.option("--state", type=click.Choice([state.value for state in AccountState]))
@click.option("--limit", type=click.IntRange(1, LARGEST_ID), help="How many at most; without it, all.")
def list_(text: str, state: str | None, limit: int | None) -> Answer:
    """List accounts, oldest first; TEXT searches them."""
    found = list(islice(_all_accounts(text, state), limit))
    if not found:
        return Answer([], note="No account matches.")
    rows = [
        (one.id, one.state, one.tenant_id, one.external_id, one.person_email, one.title, " ".join(one.reasons))
        for one in found
    ]
    headings = ("ID", "STATE", "TENANT", "EXTERNAL ID", "PERSON", "TITLE", "REASON")
    return Answer([_facts(account) for account in found], table(headings, rows, ends_in_sentence=True))


@command("show", "7", "external:acme --json", within=accounts)
@account_argument
def show(account: str) -> Answer:
    """Show one account and its history."""
    found = view_account(find_account_id(account))
    events = list_events(Search(account_id=found.id)).rows
    text = [facts({name: value for name, value in _facts(found).items() if name != "reasons"})]
    text += [cell(f"! {reason}") for reason in found.reasons]
    text += [cell(f"{event.at.isoformat(timespec='seconds')}  {event.actor}  {event.sentence}") for event in events]
    return Answer({**_facts(found), "events": [asdict(event) for event in events]}, "\n".join(text))


@command("name", "7 --external-id acme --label 'The Dentist'", "external:acme --label ''", within=accounts)
@account_argument
@click.option("--label", help="Your name for the account; '' removes it.")
@click.option("--external-id", help="Your own id of this customer; '' removes it.")
def name(account: str, label: str | None, external_id: str | None) -> Answer:
    """Set the label or the external id of an account; what is not given stays."""
    changes = {field: text for field, text in (("label", label), ("external_id", external_id)) if text is not None}
    if not changes:
        raise click.UsageError("Give --label, --external-id, or both.")
    account_id = find_account_id(account)
    change_account(account_id, Actor.COMMAND_LINE, changes)
    return Answer(_facts(view_account(account_id)), "The names are saved.")


@command("token", "external:acme", "7 --min-validity 1800", "7 --json", within=accounts)
@account_argument
@click.option(
    "--min-validity",
    type=click.IntRange(0, LONGEST_VALIDITY_SECONDS),
    metavar="SECONDS",
    help="How long the token must still be valid; exit code 4 when that is not possible.",
)
def token(account: str, min_validity: int | None) -> Answer:
    """Print a valid access token; it is refreshed first if necessary."""
    served = valid_token(find_account_id(account), Actor.COMMAND_LINE, min_validity)
    record_hand_out(served.account.id, served.fingerprint, Actor.COMMAND_LINE)
    note = f"Warning: {served.warning}" if served.warning else ""
    return Answer(served.as_answer(), served.access_token, note)


@command("refresh", "7", "--all --json", within=accounts)
@click.argument("account", type=AccountName(), required=False)
@click.option("--all", "everything", is_flag=True, help="Every account that has a refresh token, one after the other.")
def refresh(account: str | None, everything: bool) -> Answer:
    """Refresh one account now, or all of them; Ctrl-C stops after the current one."""
    if everything == (account is not None):
        raise click.UsageError("Name one account, or --all.")
    if account is None:
        return _refresh_all()
    account_id = find_account_id(account)
    refresh_account(account_id, Actor.COMMAND_LINE)
    return Answer({"refreshed": [account_id], "failed": [], "left": 0}, "Refreshed: new tokens are stored.")


@command("disconnect", "external:acme", "7 --yes", within=accounts)
@account_argument
@asks("Delete the tokens of this account?")
def disconnect(account: str) -> Answer:
    """Delete an account's tokens."""
    account_id = find_account_id(account)
    disconnect_account(account_id, Actor.COMMAND_LINE)
    return Answer({"id": account_id, "state": AccountState.DISCONNECTED}, f"Disconnected. {AT_KEAP}")


@command("reconnect-link", "external:acme", "7 --json", within=accounts)
@account_argument
def reconnect_link(account: str) -> Answer:
    """Print a link by which the customer can reconnect, once, within seven days and without a sign-in."""
    made = make_link(find_account_id(account), Actor.COMMAND_LINE)
    return Answer(asdict(made), made.url)


@command("erase", "external:acme", "7 --yes", within=accounts)
@account_argument
@asks("Erase this account for good, with its history?")
def erase(account: str) -> Answer:
    """Erase an account for good: its tokens, its names and its history."""
    account_id = find_account_id(account)
    erase_account(account_id, Actor.COMMAND_LINE)
    return Answer({"id": account_id, "is_erased": True}, f"Erased. {AT_KEAP}")


def _refresh_all() -> Answer:
    ids = list_refreshable_ids()
    refreshed: list[int] = []
    failures: list[tuple[int, KeapConnectError]] = []
    stopping = threading.Event()
    with (
        on_stop(lambda _sign: stopping.set()),
        click.progressbar(ids, label="Refreshing", show_pos=True, hidden=wants_json(), file=sys.stderr) as progress,
    ):
        for account_id in progress:
            if stopping.wait(reserve_calls(1)):
                break
            try:
                refresh_account(account_id, Actor.COMMAND_LINE)
                refreshed.append(account_id)
            except KeapConnectError as problem:
                failures.append((account_id, problem))
    left = len(ids) - len(refreshed) - len(failures)
    codes = {problem.exit_code for _, problem in failures} | ({ExitCode.FAILED} if left else set())
    text = [cell(f"Account {each}: {problem}") for each, problem in failures]
    if left:
        text.append(f"Stopped: {left} of {len(ids)} accounts were not tried.")
    elif not codes:
        text.append("All are refreshed." if ids else "No account has a refresh token.")
        codes = {ExitCode.DONE if ids else ExitCode.NOTHING_TO_DO}
    failed = [{"id": each, "error": one.code, "error_description": str(one)} for each, one in failures]
    code = codes.pop() if len(codes) == 1 else ExitCode.FAILED
    return Answer({"refreshed": refreshed, "failed": failed, "left": left}, "\n".join(text), code=code)


def _all_accounts(text: str, state: str | None) -> Iterator[AccountView]:
    for found in list_in_pieces(text=text, state=state):
        if found.note and found.next_cursor is None:
            click.echo(found.note, err=True)
        yield from found.rows


def _facts(account: AccountView) -> dict[str, object]:
    return {name: value for name, value in asdict(account).items() if name not in MASKED}


@command(
    "import",
    "credentials.csv --dry-run",
    "- --json < credentials.csv",
    within=accounts,
    help=f"""Import credentials from a CSV file, or from standard input with `-`, line by line.

    The first line names the columns, out of {", ".join(COLUMNS)}; the first two are needed. The kind is
    oauth, access_token_only, personal_access_token or service_account_key; replace is yes or no. A worker goes on if
    this command ends early; /jobs shows how far it is, and can stop it.
    """,
)
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Ask Keap about each line, say what it would do, and store nothing.")
@click.option("--unusual-keys", is_flag=True, help="Accept keys that do not begin with KeapAK.")
def import_file(file: BinaryIO, dry_run: bool, unusual_keys: bool) -> Answer:
    try:
        content = file.read(MOST_BYTES + 1)  # a longer one is refused as a whole
    except OSError as problem:
        raise KeapConnectError(f"{file.name} cannot be read ({problem.strerror}).") from problem
    job_id = start_import(content, Actor.COMMAND_LINE, only_checks=dry_run, takes_unusual_keys=unusual_keys)
    runner = JobRunner(current_app._get_current_object())  # type: ignore[attr-defined]
    with click.progressbar(runner.do_job(job_id), label="Asking Keap", file=sys.stderr) as views:
        view = list(views)[-1]
    return _result(view, dry_run)


@command("export", "> accounts.csv", "accounts.csv", within=accounts, speaks_json=False)
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=True), default="-")
def export(file: TextIO) -> Answer:
    """Write all accounts as CSV, without tokens; `accounts list --json` gives them as JSON."""
    try:
        file.write("")  # opens it, and not before: without a database, what is in the file stays
        for piece in export_csv(Actor.COMMAND_LINE):
            file.write(piece)
    except OSError as problem:
        raise KeapConnectError(f"{file.name} is not complete ({problem.strerror}).") from problem
    return Answer(note="" if file.name == "-" else f"All accounts are in {file.name}, without tokens.")


@command("ask-to-reconnect", "--state reconnect_required", "acme --state at_risk --yes", within=accounts)
@click.argument("text", default="")
@click.option("--state", type=click.Choice([state.value for state in AccountState]), required=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
def ask_to_reconnect(text: str, state: str, yes: bool) -> Answer:
    """Mail a reconnect link to the customers of all accounts in a state that need one; a worker does it.

    TEXT searches them. Accounts at risk need one if they were connected with another client id.
    """
    if not services().settings.mails_customers:
        raise KeapConnectError("CUSTOMER_MAIL is off. Set it, SMTP_URL and MAIL_FROM, and restart.")
    count, why_not = count_matching(text, state)
    if why_not:
        raise click.UsageError(f"Not all that match can be chosen. {why_not}")
    if not count:
        return Answer({"job": None, "accounts": 0}, "No account matches.", code=ExitCode.NOTHING_TO_DO)
    if not yes:
        confirm(f"Write to the customers of {count} accounts?")
    job = start_bulk(JobKind.MAILS, Actor.COMMAND_LINE, count, matching={"text": text, "state": state})
    return Answer({"job": job, "accounts": count}, f"Accounts: {count}. A worker writes the mails: see /jobs/{job}.")


def _result(view: JobView, dry_run: bool) -> Answer:
    items = [item for item, _ in list_items(view.job.id, None, view.total)]
    refused = [
        {"line": item.number, "column": item.details["column"], "problem": item.details["problem"]}
        for item in items
        if item.outcome == ItemOutcome.REFUSED
    ]
    done = [item for item in items if item.outcome == ItemOutcome.DONE]
    document: dict[str, object] = {"job": view.job.id, "refused": refused, "waiting": view.waiting}
    document["stopped"] = view.stopped
    notes = []
    if dry_run:
        document["lines"] = [{"line": item.number, **item.details} for item in done]
        rows = [(item.number, *(item.details[name] for name in SHOWN)) for item in done]
        text = table(("LINE", *(name.upper().replace("_", " ") for name in SHOWN)), rows)
        notes.append("Nothing was stored.")
    else:
        document["imported"] = [item.account_id for item in done]
        text = f"Imported: {len(done)} account{'' if len(done) == 1 else 's'}."
    problems = [f"Line {item.number}: {note}" for item in done if (note := item.details.get("note"))]
    problems += [f"Line {one['line']}, {one['column'] or 'no column'}: {one['problem']}" for one in refused]
    if view.waiting:
        notes.append(f"{view.waiting} lines wait. {view.job.trouble or ''} A worker goes on: see /jobs/{view.job.id}.")
    if view.stopped:
        notes.append(f"The job was stopped at /jobs/{view.job.id} with {view.stopped} lines left.")
    failed = bool(refused or view.stopped)
    code = ExitCode.COME_BACK_LATER if view.waiting else ExitCode.FAILED if failed else ExitCode.DONE
    return Answer(document, "\n".join([text, *problems]), "\n".join(notes), code)

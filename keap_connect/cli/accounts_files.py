"""`./keap-connect accounts import`, `export` and `ask-to-reconnect`: many accounts at once."""

import sys
from typing import BinaryIO, TextIO

import click
from flask import current_app

from keap_connect.accounts.directory import count_matching
from keap_connect.accounts.exporting import export_csv
from keap_connect.accounts.state import AccountState
from keap_connect.cli.accounts import accounts
from keap_connect.cli.command import Answer, command, confirm
from keap_connect.cli.output import table
from keap_connect.connect.import_files import COLUMNS, MOST_BYTES
from keap_connect.errors import ExitCode, KeapConnectError
from keap_connect.events.history import Actor
from keap_connect.jobs.bulk import start_bulk
from keap_connect.jobs.imports import start_import
from keap_connect.jobs.records import ItemOutcome, JobView, list_items
from keap_connect.jobs.runner import JobRunner
from keap_connect.models import JobKind
from keap_connect.services import services

SHOWN = ("kind", "tenant_id", "business_name", "person", "label", "external_id", "updates")


@command(
    "import",
    *("accounts import credentials.csv --dry-run", "accounts import - --json < credentials.csv"),
    within=accounts,
    help=f"""Import credentials from a CSV file, or from standard input with `-`, line by line.

    The first line names the columns, out of {", ".join(COLUMNS)}. The kind is oauth, access_token_only,
    personal_access_token or service_account_key; replace is yes or no. A worker goes on if this command ends early;
    /jobs shows how far it is, and can stop it.
    """,
)
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Ask Keap about each line, say what it would do, and store nothing.")
@click.option("--unusual-keys", is_flag=True, help="Accept keys that do not begin with KeapAK.")
def import_file(file: BinaryIO, dry_run: bool, unusual_keys: bool) -> Answer:
    content = file.read(MOST_BYTES + 1)  # a longer one is refused as a whole
    job_id = start_import(content, Actor.COMMAND_LINE, only_checks=dry_run, takes_unusual_keys=unusual_keys)
    runner = JobRunner(current_app._get_current_object())  # type: ignore[attr-defined]
    with click.progressbar(runner.do_job(job_id), label="Asking Keap", file=sys.stderr) as views:
        view = list(views)[-1]
    return _result(view, dry_run)


@command("export", "accounts export > accounts.csv", "accounts export accounts.csv", within=accounts, speaks_json=False)
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=False), default="-")
def export(file: TextIO) -> Answer:
    """Write all accounts as CSV, without tokens; `accounts list --json` gives them as JSON."""
    for piece in export_csv(Actor.COMMAND_LINE):
        file.write(piece)
    return Answer()


@command(
    "ask-to-reconnect",
    *("accounts ask-to-reconnect --state reconnect_required", "accounts ask-to-reconnect acme --state at_risk --yes"),
    within=accounts,
)
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
    code = ExitCode.COME_BACK_LATER if view.waiting else ExitCode.FAILED if refused else ExitCode.DONE
    return Answer(document, "\n".join([text, *problems]), "\n".join(notes), code)

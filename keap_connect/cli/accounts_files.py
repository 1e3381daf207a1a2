"""`./keap-connect accounts import` and `export`: many accounts at once, as CSV."""

from dataclasses import asdict
from typing import BinaryIO, TextIO

import click

from keap_connect.accounts.exporting import export_csv
from keap_connect.cli.accounts import accounts
from keap_connect.cli.command import Answer, command
from keap_connect.cli.output import table
from keap_connect.connect.import_files import COLUMNS, MOST_BYTES, preview_file
from keap_connect.connect.import_files import import_file as store_file
from keap_connect.errors import ExitCode
from keap_connect.events.history import Actor


@command(
    "import",
    *("accounts import credentials.csv --dry-run", "accounts import - --json < credentials.csv"),
    within=accounts,
    help=f"""Import credentials from a CSV file, or from standard input with `-`: all lines of it or none.

    The first line names the columns, out of {", ".join(COLUMNS)}. The kind is oauth, access_token_only,
    personal_access_token or service_account_key.
    """,
)
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Ask Keap about each line, say what it would do, and store nothing.")
def import_file(file: BinaryIO, dry_run: bool) -> Answer:
    content = file.read(MOST_BYTES + 1)  # a longer one is refused as a whole
    if dry_run:
        return _preview(content)
    ids = store_file(content, Actor.COMMAND_LINE)
    return Answer({"imported": ids}, f"Imported: {len(ids)} account{'' if len(ids) == 1 else 's'}.")


@command("export", "accounts export > accounts.csv", "accounts export accounts.csv", within=accounts, speaks_json=False)
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=False), default="-")
def export(file: TextIO) -> Answer:
    """Write all accounts as CSV, without tokens; `accounts list --json` gives them as JSON."""
    for piece in export_csv(Actor.COMMAND_LINE):
        file.write(piece)
    return Answer()


def _preview(content: bytes) -> Answer:
    preview = preview_file(content)
    rows = [
        (one.number, one.kind, one.tenant_id, one.business_name, one.person, one.updates or "a new account")
        for one in preview.lines
    ]
    problems = [f"Line {number}: {problem}" for number, problem in preview.problems.items()]
    return Answer(
        {"lines": [asdict(line) for line in preview.lines], "problems": preview.problems},
        "\n".join([table(("LINE", "KIND", "TENANT", "COMPANY", "PERSON", "UPDATES"), rows), *problems]),
        "Nothing was stored.",
        ExitCode.FAILED if problems else ExitCode.DONE,
    )

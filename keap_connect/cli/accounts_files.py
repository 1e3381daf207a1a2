"""`./keap-connect accounts import` and `export`: many accounts at once, as CSV."""

import sys
from dataclasses import asdict
from typing import BinaryIO, TextIO

import click
from flask.cli import with_appcontext

from keap_connect.accounts.exporting import export_csv
from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_json, show_table
from keap_connect.connect.import_files import COLUMNS, MOST_BYTES, preview_file
from keap_connect.connect.import_files import import_file as store_file
from keap_connect.events.history import Actor


@click.command(
    "import",
    epilog=help_with("accounts import credentials.csv --dry-run", "accounts import - --json < credentials.csv"),
    help=f"""Import credentials from a CSV file, or from standard input with `-`: all lines of it or none.

    The first line names the columns, out of {", ".join(COLUMNS)}. The kind is oauth, access_token_only,
    personal_access_token or service_account_key.
    """,
)
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Ask Keap about each line, say what it would do, and store nothing.")
@json_option
@with_appcontext
@plainly
def import_file(file: BinaryIO, dry_run: bool, as_json: bool) -> None:
    """Read at most what may be in a file; a longer one is refused as a whole."""
    content = file.read(MOST_BYTES + 1)
    if dry_run:
        _preview(content, as_json)
        return
    ids = store_file(content, Actor.COMMAND_LINE)
    if as_json:
        show_json({"imported": ids})
    else:
        click.echo(f"Imported: {len(ids)} {'account' if len(ids) == 1 else 'accounts'}.")


@click.command("export", epilog=help_with("accounts export > accounts.csv", "accounts export accounts.csv"))
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=False), default="-")
@with_appcontext
@plainly
def export(file: TextIO) -> None:
    """Write all accounts as CSV, without tokens; `accounts list --json` gives them as JSON."""
    for piece in export_csv(Actor.COMMAND_LINE):
        file.write(piece)


def _preview(content: bytes, as_json: bool) -> None:
    preview = preview_file(content)
    if as_json:
        show_json({"lines": [asdict(line) for line in preview.lines], "problems": preview.problems})
    else:
        rows = [
            (one.number, one.kind, one.tenant_id, one.business_name, one.person, one.updates or "a new account")
            for one in preview.lines
        ]
        show_table(("LINE", "KIND", "TENANT", "COMPANY", "PERSON", "UPDATES"), rows)
        for number, problem in preview.problems.items():
            click.echo(f"Line {number}: {problem}")
        click.echo("Nothing was stored.", err=True)
    if preview.problems:
        sys.exit(ExitCode.FAILED)

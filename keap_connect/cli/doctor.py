"""`./keap-connect doctor`: what is wrong with this installation, and what to do."""

import sys
from dataclasses import asdict

import click
from flask.cli import ScriptInfo

from keap_connect.cli.exit_codes import ExitCode, help_with
from keap_connect.cli.output import cell, json_option, show_json
from keap_connect.errors import SettingsError
from keap_connect.health.examination import examine, list_wrong_settings
from keap_connect.health.finding import Health

MARKS = {Health.WELL: "ok", Health.ATTENTION: "look", Health.WRONG: "WRONG", Health.UNKNOWN: "?"}


@click.command("doctor", epilog=help_with("doctor", "doctor --json"))
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check settings, database, keys, clocks, the line to Keap, workers, files and disk; exit code 1 when one is wrong.

    It works with wrong settings and without a database too, sends no secret anywhere, and mends nothing.
    """
    try:
        app = ctx.ensure_object(ScriptInfo).load_app()
    except SettingsError as refusal:
        findings = list_wrong_settings(refusal.problems)
    else:
        with app.app_context():
            findings = examine()
    is_wrong = any(finding.health is Health.WRONG for finding in findings)
    if as_json:
        show_json({"is_well": not is_wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            click.echo(f"{MARKS[finding.health]:<6} {finding.subject:<{width}}  {cell(finding.sentence)}")
            if finding.advice:
                click.echo(f"{'':<6} {'':<{width}}  -> {cell(finding.advice)}")
    sys.exit(ExitCode.FAILED if is_wrong else ExitCode.DONE)

"""`./keap-connect doctor`: what is wrong with this installation, and what to do about it."""

from dataclasses import asdict

import click
from flask.cli import ScriptInfo

from keap_connect.cli.command import Answer, command
from keap_connect.cli.output import cell, wrapped
from keap_connect.errors import ExitCode, SettingsError
from keap_connect.health.examination import examine, list_wrong_settings
from keap_connect.health.finding import Health

MARKS = {Health.WELL: "ok", Health.ATTENTION: "look", Health.WRONG: "WRONG", Health.UNKNOWN: "?"}


@command("doctor", "doctor", "doctor --json", checks_database=False, with_appcontext=False)
@click.pass_context
def doctor(ctx: click.Context) -> Answer:
    """Check settings, database, keys, clocks, the way to Keap, workers, files and disk; exit code 1 if one is wrong.

    It works with wrong settings and without a database too, sends no secret anywhere, and changes nothing.
    """
    try:
        app = ctx.ensure_object(ScriptInfo).load_app()
    except SettingsError as refusal:
        findings = list_wrong_settings(refusal.problems)
    else:
        with app.app_context():
            findings = examine()
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

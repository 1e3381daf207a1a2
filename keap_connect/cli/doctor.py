"""`./keap-connect doctor` and `support`: what is wrong with this installation, and what those who help need to know."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TypeVar

import click
from flask.cli import ScriptInfo

from keap_connect.cli.command import Answer, cell, command, wrapped
from keap_connect.errors import ExitCode, SettingsError
from keap_connect.health.examination import examine, list_wrong_settings
from keap_connect.health.finding import Health
from keap_connect.health.support import support_text, support_text_without_app

MARKS = {Health.WELL: "ok", Health.ATTENTION: "look", Health.WRONG: "WRONG", Health.UNKNOWN: "?"}
Found = TypeVar("Found")


@command("doctor", "doctor", "doctor --json", checks_database=False, with_appcontext=False)
@click.pass_context
def doctor(ctx: click.Context) -> Answer:
    """Check settings, database, keys, clocks, the way to Keap, workers, files and disk; exit code 1 if one is wrong.

    It works with wrong settings and without a database too, sends no secret anywhere, and changes nothing.
    """
    findings = _in_app(ctx, examine, list_wrong_settings)
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


@command("support", "support --json", checks_database=False, with_appcontext=False)
@click.pass_context
def support(ctx: click.Context) -> Answer:
    """Print versions, settings without secrets, checks and last failures, for those who help you.

    It works with wrong settings and without a database too, sends no secret anywhere, and changes nothing.
    """
    text = _in_app(ctx, lambda: support_text(None, {}), support_text_without_app)
    return Answer({"text": text}, text)


def _in_app(ctx: click.Context, look: Callable[[], Found], look_without: Callable[[Sequence[str]], Found]) -> Found:
    """Return what `look` finds in the app; with wrong settings there is none, so the other gets what is wrong."""
    try:
        app = ctx.ensure_object(ScriptInfo).load_app()
    except SettingsError as refusal:
        return look_without(refusal.problems)
    with app.app_context():
        return look()

"""`./keap-connect support`: the text for those who help with this installation."""

import click
from flask.cli import ScriptInfo

from keap_connect.cli.command import Answer, command
from keap_connect.errors import SettingsError
from keap_connect.health.support import support_text, support_text_without_app


@command("support", "support --json", checks_database=False, with_appcontext=False)
@click.pass_context
def support(ctx: click.Context) -> Answer:
    """Print versions, settings without secrets, checks and last failures, for those who help you.

    It works with wrong settings and without a database too, sends no secret anywhere, and changes nothing.
    """
    try:
        app = ctx.ensure_object(ScriptInfo).load_app()
    except SettingsError as refusal:
        text = support_text_without_app(refusal.problems)
    else:
        with app.app_context():
            text = support_text(None, {})
    return Answer({"text": text}, text)

"""`./keap-connect worker`: refreshes accounts ahead of time."""

import sys

import click
from flask import current_app
from flask.cli import with_appcontext

from keap_connect.cli.exit_codes import ExitCode, help_with, plainly
from keap_connect.cli.output import json_option, show_json
from keap_connect.refresh import alarms
from keap_connect.refresh.worker import RefreshWorker
from keap_connect.server.checks import check_installation


@click.command("worker", epilog=help_with("worker", "worker --once", "worker --once --json"))
@click.option("--once", is_flag=True, help="Refresh what is due now, then end.")
@json_option
@with_appcontext
@plainly
def worker(once: bool, as_json: bool) -> None:
    """Refresh accounts ahead of time, until SIGTERM; any number of workers share one database."""
    for warning in check_installation():
        click.echo(warning, err=True)
    sweep = RefreshWorker(current_app._get_current_object())  # type: ignore[attr-defined]
    sweep.run(until_idle=once)
    raised = alarms.list_alarms()
    if as_json:
        names = [alarm.name for alarm in raised]
        show_json({"refreshed": sweep.refreshed, "failed": sweep.failed, "faults": sweep.faults, "paused_by": names})
    for pause in alarms.list_pauses():
        click.echo(pause, err=True)
    if sweep.faults:
        click.echo(f"Faults of this program stopped {sweep.faults} refreshes; the log tells of each.", err=True)
        sys.exit(ExitCode.FAILED)
    if raised and once:
        sys.exit(ExitCode.COME_BACK_LATER)

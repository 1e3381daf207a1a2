"""`./keap-connect serve`, `worker` and `sandbox`: the programs that run until somebody ends them."""

import gc
import subprocess
import sys
from pathlib import Path

import click
from flask import current_app

from keap_connect.cli.command import Answer, command, commands
from keap_connect.errors import ExitCode, SettingsError
from keap_connect.health.refreshing import read_refreshing
from keap_connect.jobs.runner import JobRunner
from keap_connect.notifications.channels import CHANNELS
from keap_connect.notifications.sender import Sender
from keap_connect.refresh.state_keeper import StateKeeper
from keap_connect.refresh.worker import RefreshWorker
from keap_connect.server.checks import check_installation, prepare_to_serve
from keap_connect.server.serve import serve as serve_app
from keap_connect.services import services

File = click.Path(exists=True, dir_okay=False, path_type=Path)


@command("serve", "", "--certificate fullchain.pem --key privkey.pem", checks_database=False, speaks_json=False)
@click.option("--certificate", type=File, help="Serve HTTPS with this certificate, without a proxy in front.")
@click.option("--key", type=File, help="The private key of the certificate.")
def serve(certificate: Path | None, key: Path | None) -> Answer:
    """Serve the pages and the token API at HOST and PORT, until SIGTERM or Ctrl-C."""
    if bool(certificate) != bool(key):
        raise click.UsageError("--certificate and --key belong together.")
    settings = services().settings
    try:
        prepare_to_serve(settings)
        serve_app(current_app._get_current_object(), settings, certificate, key)  # type: ignore[attr-defined]
    except SettingsError as refusal:
        sys.exit(refusal.report)


@commands.command(
    "sandbox",
    with_appcontext=False,
    context_settings={"ignore_unknown_options": True},
    add_help_option=False,
    help="Start the sandbox, a stand-in for Keap, as a program of its own; `--help` shows its options.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sandbox(arguments: tuple[str, ...]) -> None:
    like_us = ["-P"] * sys.flags.safe_path
    sys.exit(subprocess.call([sys.executable, *like_us, "-m", "keap_connect.sandbox", *arguments]))  # noqa: S603


@command("worker", "", "--once", "--once --json")
@click.option("--once", is_flag=True, help="Do, refresh and send what is due now, then end.")
def worker(once: bool) -> Answer:
    """Refresh accounts, do jobs and send notifications, until SIGTERM; any number of workers share one database."""
    for warning in check_installation():
        click.echo(warning, err=True)
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    jobs, states, sender = JobRunner(app), StateKeeper(app), Sender(app, CHANNELS)
    run = RefreshWorker(app, (jobs, states, sender))
    # This process does nothing but the work of the worker.
    gc.freeze()  # what was loaded so far stays, and scanning it again and again costs time
    gc.set_threshold(10_000)  # a batch of refreshes makes thousands of objects, and nearly none of them in a circle
    # The threads mostly wait for others. One that works ends sooner, and in less processor time, uninterrupted.
    sys.setswitchinterval(0.05)
    if once:
        states.derive_due()
        jobs.do_due()
        run.run(until_idle=True)
        sender.send_due()
    else:
        with states, jobs, sender:
            run.run()
    refreshing = read_refreshing()
    names = [pause.name for pause in refreshing.pauses]
    notes = [f"{pause.sentence} {pause.advice}" for pause in refreshing.pauses]
    if run.faults:
        notes.append(f"Faults of this program stopped {run.faults} refreshes; each is in the log.")
    document = {"refreshed": run.refreshed, "failed": run.failed, "faults": run.faults, "paused_by": names}
    code = ExitCode.FAILED if run.faults else ExitCode.COME_BACK_LATER if names and once else ExitCode.DONE
    return Answer(document, note="\n".join(notes), code=code)

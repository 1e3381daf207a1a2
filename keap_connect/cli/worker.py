"""`./keap-connect worker`: refreshes accounts ahead of time, does jobs, and sends notifications."""

import gc
import sys

import click
from flask import current_app

from keap_connect.cli.command import Answer, command
from keap_connect.errors import ExitCode
from keap_connect.health.refreshing import read_refreshing
from keap_connect.jobs.runner import JobRunner
from keap_connect.notifications.channels import CHANNELS
from keap_connect.notifications.sender import Sender
from keap_connect.refresh.state_keeper import StateKeeper
from keap_connect.refresh.worker import RefreshWorker
from keap_connect.server.checks import check_installation


@command("worker", "worker", "worker --once", "worker --once --json")
@click.option("--once", is_flag=True, help="Do, refresh and send what is due now, then end.")
def worker(once: bool) -> Answer:
    """Refresh accounts, do jobs and send notifications, until SIGTERM; any number of workers share one database."""
    for warning in check_installation():
        click.echo(warning, err=True)
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    jobs, states, sender = JobRunner(app), StateKeeper(app), Sender(app, CHANNELS)
    run = RefreshWorker(app, (jobs, states, sender))
    _spend_less_time_on_python()
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


def _spend_less_time_on_python() -> None:
    """Set what is of the whole process, which does nothing but the work of the worker."""
    gc.freeze()  # what was loaded so far stays, and scanning it again and again costs time
    gc.set_threshold(10_000)  # a batch of refreshes makes thousands of objects, and nearly none of them in a circle
    # The threads mostly wait for others. One that works ends sooner, and in less processor time, uninterrupted.
    sys.setswitchinterval(0.05)

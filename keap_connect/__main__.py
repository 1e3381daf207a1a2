"""`python -m keap_connect`, which `./keap-connect` runs: the command line."""

import os
import sys
from functools import partial

from flask.cli import ScriptInfo

from keap_connect.application import create_app
from keap_connect.cli.command import commands
from keap_connect.errors import SettingsError
from keap_connect.refresh.recovery import wait_for_pairs_in_memory
from keap_connect.signals import end_in_order, on_stop


def main() -> None:
    """Run one command. The app is built only when the command needs it, so `--help` works without settings."""
    os.umask(0o077)  # What a command makes may hold secrets: databases, exports, recovery files.
    try:
        with on_stop(end_in_order):
            try:
                commands(prog_name="./keap-connect", obj=ScriptInfo(create_app=partial(create_app, serves=False)))
            finally:  # and not only at exit, while signals are still handled
                wait_for_pairs_in_memory()
    except SettingsError as refusal:
        sys.exit(refusal.report)


if __name__ == "__main__":
    main()

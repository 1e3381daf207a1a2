"""`python -m keap_connect`, which `./keap-connect` runs: the command line."""

import gc
import io
import os
import sys

gc.disable()  # What is imported stays. To look for garbage in it again and again took a sixth of a command's start.

# An upgrade points the link to this version's folder to another one; what this process imports later must be its own.
sys.path[:] = [os.path.realpath(one) for one in sys.path]

from functools import partial
from typing import NoReturn

import click
from flask.cli import ScriptInfo

from keap_connect.application import create_app
from keap_connect.cli.command import as_json, commands
from keap_connect.errors import ExitCode, SettingsError
from keap_connect.refresh.recovery import wait_for_pairs_in_memory
from keap_connect.signals import end_in_order, on_stop

gc.freeze()
gc.enable()


def main() -> None:
    """Run one command. The app is built only when the command needs it, so `--help` works without settings."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal's encoding lacks, or a file name in another one
        sys.stdout.reconfigure(errors="backslashreplace")
    os.umask(0o077)  # What a command makes may hold secrets: databases, exports, recovery files.
    try:
        with on_stop(end_in_order):
            try:
                commands(
                    prog_name="./keap-connect",
                    obj=ScriptInfo(create_app=partial(create_app, serves=False)),
                    standalone_mode=False,
                )
            finally:  # and not only at exit, while signals are still handled
                wait_for_pairs_in_memory()
    except SettingsError as refusal:
        end(refusal.report, refusal.code, refusal.exit_code)
    except click.ClickException as refusal:
        refusal.show()
        end("", "invalid_request", refusal.exit_code, refusal.format_message())
    except click.Abort:
        end("Aborted.", "aborted", ExitCode.FAILED)
    except OSError as problem:  # a command reports all others itself
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)  # else Python would try again at its end, and fail
        print(f"The output cannot be written ({problem.strerror or problem}).", file=sys.stderr)
        sys.exit(ExitCode.FAILED)


def _open_closed_streams() -> None:
    """Open what the caller closed, as `2>&-` does: else a file that is opened later gets its number, and its lines."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115  (until the end of the process)
    sys.stdout = sys.stdout or open(os.devnull)  # noqa: SIM115  (what is written there must not seem to be written)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def end(note: str, code: str, exit_code: int, description: str = "") -> NoReturn:
    """End with a note for people and, if --json was given, a document for programs."""
    if "--json" in sys.argv:
        print(as_json({"error": code, "error_description": description or note, "is_retryable": False}))
    if note:
        print(note, file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()

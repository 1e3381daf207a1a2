"""`./keap-connect sandbox`: the stand-in for Keap."""

import subprocess
import sys

import click

from keap_connect.cli.command import commands


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

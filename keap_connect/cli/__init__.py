"""`./keap-connect …`, for operators and scripts. One file for each subject.

A command reads its arguments, calls one function and returns an `Answer` (command.py), which is printed as text for
people or, with `--json`, as one document for programs.
"""

from flask import Flask

# Each adds its commands.
from keap_connect.cli import accounts, admins, api_keys, audit, database, health, invitations, notifications, programs  # noqa: F401
from keap_connect.cli.command import commands


def register_commands(app: Flask) -> None:
    """Add our commands to `flask --app app` too."""
    for command in commands.commands.values():
        app.cli.add_command(command)

"""`./keap-connect …`, for operators and scripts. One file for each subject.

A command reads its arguments, calls one function and returns an `Answer` (command.py), which is printed as text for
people or, with `--json`, as one document for programs.
"""

from flask import Flask

from keap_connect.cli import (  # noqa: F401  (each adds its commands)
    accounts,
    admins,
    api_keys,
    audit,
    database,
    doctor,
    invitations,
    notifications,
    programs,
    refreshing,
)
from keap_connect.cli.command import commands


def register_commands(app: Flask) -> None:
    """Add our commands to `flask --app app` too."""
    for command in commands.commands.values():
        app.cli.add_command(command)

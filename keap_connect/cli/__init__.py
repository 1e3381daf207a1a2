"""`./keap-connect …`: what an operator and a job's script do from a shell. One file for each group of commands.

A command reads its arguments, calls one function and says how it went: in words and aligned columns for people, with
`--json` as one document for programs, and by its exit code (exit_codes.py).
"""

from flask import Flask
from flask.cli import AppGroup

from keap_connect.cli import (
    accounts,
    accounts_files,
    admins,
    api_keys,
    audit,
    database,
    doctor,
    emergency_stop,
    refreshing,
    sandbox,
    serve,
    token_keys,
    worker,
)

commands = AppGroup(help="Keap Connect from the command line. Each command says with `--help` how it is used.")
for _command in (accounts_files.import_file, accounts_files.export):
    accounts.accounts.add_command(_command)
for _command in (
    accounts.accounts,
    api_keys.api_keys,
    admins.admins,
    audit.audit,
    database.db,
    database.database,
    token_keys.token_keys,
    emergency_stop.emergency_stop,
    serve.serve,
    worker.worker,
    refreshing.refreshing,
    doctor.doctor,
    sandbox.sandbox,
):
    commands.add_command(_command)


def register_commands(app: Flask) -> None:
    """Add our commands to `flask --app app`, too."""
    for command in commands.commands.values():
        app.cli.add_command(command)

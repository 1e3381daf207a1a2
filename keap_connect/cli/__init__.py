"""`flask --app app …`: what an operator and a job's script do from a shell. One file for each group of commands.

A command reads its arguments, calls one function and says how it went: in words and aligned columns for people, with
`--json` as one document for programs, and by its exit code (exit_codes.py).
"""

from flask import Flask

from keap_connect.cli import (
    accounts,
    accounts_files,
    admins,
    api_keys,
    audit,
    doctor,
    emergency_stop,
    sandbox,
    serve,
    token_keys,
    worker,
)


def register_commands(app: Flask) -> None:
    """Add our commands to `flask`."""
    for command in (accounts_files.import_file, accounts_files.export):
        accounts.accounts.add_command(command)
    for command in (
        accounts.accounts,
        api_keys.api_keys,
        admins.admins,
        audit.audit,
        token_keys.token_keys,
        emergency_stop.emergency_stop,
        serve.serve,
        worker.worker,
        doctor.doctor,
        sandbox.sandbox,
    ):
        app.cli.add_command(command)

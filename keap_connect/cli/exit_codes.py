"""What the exit code of a command tells a script, and how every command fails: in one sentence, never a traceback."""

import json
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

import click
from sqlalchemy.exc import DatabaseError, OperationalError

from keap_connect.deployment import check_deployment
from keap_connect.errors import (
    AccountDisconnected,
    AccountNotFound,
    APIKeyNotFound,
    ClientMisconfigured,
    DatabaseDamaged,
    DatabaseSilent,
    HandOutUnrecorded,
    KeapConnectError,
    ReconnectRequired,
    TemporarilyUnavailable,
)
from keap_connect.keap.answers import cut

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ExitCode(IntEnum):
    """The same for every command."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    NOTHING_TO_DO = 3
    COME_BACK_LATER = 4
    PERSON_MUST_RECONNECT = 5


# The words are those of the token API. A refused client is mended by an admin, and a job can only come back later.
ANSWERS: dict[type[KeapConnectError], tuple[ExitCode, str]] = {
    ReconnectRequired: (ExitCode.PERSON_MUST_RECONNECT, "reconnect_required"),
    AccountDisconnected: (ExitCode.PERSON_MUST_RECONNECT, "disconnected"),
    TemporarilyUnavailable: (ExitCode.COME_BACK_LATER, "temporarily_unavailable"),
    ClientMisconfigured: (ExitCode.COME_BACK_LATER, "temporarily_unavailable"),
    HandOutUnrecorded: (ExitCode.COME_BACK_LATER, "temporarily_unavailable"),
    DatabaseSilent: (ExitCode.COME_BACK_LATER, "temporarily_unavailable"),
    AccountNotFound: (ExitCode.FAILED, "not_found"),
    APIKeyNotFound: (ExitCode.FAILED, "not_found"),
}
SENTENCE = (
    "Exit codes: 0 done, 1 error, 2 wrong use, 3 nothing to do, 4 come back later, 5 a person must reconnect. "
    "With --json, standard output holds one document, also for errors."
)


def help_with(*examples: str) -> str:
    """Return the end of a command's help: examples, one on each line, and what the exit codes say."""
    lines = "\n".join(f"  ./keap-connect {example}" for example in examples)
    return f"\b\nExamples:\n{lines}\n\n{SENTENCE}"


def answer_of(problem: KeapConnectError) -> tuple[ExitCode, str]:
    """Return the exit code and the word for what went wrong."""
    for kind in type(problem).__mro__:
        if kind in ANSWERS:
            return ANSWERS[kind]
    return ExitCode.FAILED, "failed"


def fail(problem: KeapConnectError, as_json: bool) -> NoReturn:
    """Say one sentence on standard error, with --json a document on standard output too, and end."""
    code, word = answer_of(problem)
    if as_json:
        document: dict[str, object] = {"error": word, "error_description": str(problem)}
        document["is_retryable"] = code is ExitCode.COME_BACK_LATER
        if isinstance(problem, TemporarilyUnavailable):
            document["retry_after_seconds"] = problem.retry_after_seconds
        click.echo(json.dumps(document))
    click.echo(f"Error: {problem}", err=True)
    sys.exit(code)


def plainly(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Check the database first, and turn what goes wrong into its one sentence."""

    @wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        check_deployment()
        return command(*args, **kwargs)

    return in_words(run)


def in_words(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Turn our own errors, and a database that fails or is damaged, into their one sentence."""

    @wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        as_json = bool(kwargs.get("as_json"))
        try:
            return command(*args, **kwargs)
        except KeapConnectError as problem:
            fail(problem, as_json)
        except OperationalError:
            fail(DatabaseSilent(["The database does not answer. Try again in a minute."]), as_json)
        except DatabaseError as problem:
            if type(problem) is not DatabaseError:  # its subclasses are faults of this program
                raise
            fail(DatabaseDamaged(cut(str(problem.orig))), as_json)

    return run

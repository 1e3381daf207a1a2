"""How every command reads its arguments, answers and fails: with text or one JSON document, and an exit code."""

import json
import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

import click
from flask.cli import AppGroup
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from keap_connect.accounts.naming import read_typed_name
from keap_connect.deployment import check_deployment
from keap_connect.errors import DatabaseDamaged, DatabaseSilent, ExitCode, KeapConnectError
from keap_connect.keap.answers import cut
from keap_connect.refresh.heartbeat import report_counted

NEVER_CUT = {"STATE"}
NARROWEST = 8
EXIT_CODES = (
    "Exit codes: 0 done, 1 error, 2 wrong use, 3 nothing to do, 4 come back later, 5 a person must reconnect. "
    "With --json, standard output is one document, also for errors."
)
FAULT = "A fault of this program ({}) ended the command. With LOG_LEVEL=DEBUG the log says where."
log = logging.getLogger(__name__)
commands = AppGroup(help="Keap Connect from the command line. `--help` after a command explains it.")


def as_json(document: object) -> str:
    """Return a JSON document; times become ISO 8601 in UTC. JSON is UTF-8, so another output gets ASCII alone."""
    is_ascii = sys.stdout.encoding.lower() != "utf-8"
    return json.dumps(document, default=_iso_time, indent=2, ensure_ascii=is_ascii)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], ends_in_sentence: bool = False) -> str:
    """Return the rows in columns that are as wide as their longest cell; on a terminal, the widest are cut to fit.

    Args:
        ends_in_sentence: whether the last column holds a sentence. It is never cut: if the terminal is too narrow, it
            is below its row.
    """
    cells = [list(headings), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(headings))]
    columns = _terminal_columns()
    goes_below = ends_in_sentence and 0 < columns < sum(widths) + 2 * (len(widths) - 1)
    sentences = [row.pop() for row in cells] if goes_below else []
    widths = widths[: len(cells[0])]
    while 0 < columns < sum(widths) + 2 * (len(widths) - 1):
        widest = max((width, number) for number, width in enumerate(widths) if headings[number] not in NEVER_CUT)
        if widest[0] <= NARROWEST:
            break
        widths[widest[1]] -= 1
    lines = [
        "  ".join(_cut(text, width).ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    for number, sentence in enumerate(sentences):
        if number and sentence != cell(None):
            lines[number] += f"\n{wrapped(f'    {sentence}', 4)}"
    return "\n".join(lines)


def wrapped(text: str, indent: int) -> str:
    """Return a text whose later lines are indented; on a terminal, its lines fit."""
    columns = _terminal_columns()
    if not columns:
        return text
    return textwrap.fill(text, columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def facts(values: Mapping[str, object]) -> str:
    width = max(map(len, values)) + 2
    return "\n".join(f"{name:<{width}}{cell(value)}" for name, value in values.items())


def cell(value: object) -> str:
    """Return a value as one line without control characters, which could change the terminal."""
    if value is None or value == "":
        return "-"
    text = _iso_time(value) if isinstance(value, datetime) else str(value)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _terminal_columns() -> int:
    """Return the width of the terminal; 0 if the output goes to a file or a program."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _iso_time(value: datetime) -> str:
    return value.isoformat(timespec="seconds")


class AccountName(click.ParamType[str]):
    """An account's number, its tenant, or `external:` and the id that the operator gave it."""

    name = "account"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = read_typed_name(value)
        if name is None:
            self.fail(f"{value!r} is neither a number, nor a tenant like ab123, nor external:<your own id>", param, ctx)
        return name


class Days(click.ParamType[timedelta]):
    """A number of days followed by "d", so that nobody takes it for another unit."""

    name = "days"

    def __init__(self, at_least: timedelta = timedelta(days=1)) -> None:
        self.at_least = at_least

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        found = re.fullmatch(r"([0-9]{1,4})d", value)
        if found is None:
            self.fail(f"{value!r} is not a number of days, such as 400d", param, ctx)
        days = timedelta(days=int(found[1]))
        if days < self.at_least:
            self.fail(f"it must be {self.at_least.days}d or more", param, ctx)
        return days


account_argument = click.argument("account", type=AccountName())


@dataclass(frozen=True)
class Answer:
    document: object = None  # for --json
    text: str = ""  # for people, on standard output
    note: str = ""  # for people, on standard error
    code: ExitCode = ExitCode.DONE  # of the process


def group(name: str, meaning: str) -> AppGroup:
    made = AppGroup(name, help=meaning)
    commands.add_command(made)
    return made


def command(
    name: str,
    *examples: str,
    within: AppGroup = commands,
    checks_database: bool = True,
    speaks_json: bool = True,
    **options: Any,
) -> Callable[[Callable[..., Answer]], click.Command]:
    """Add a command whose help ends with the examples.

    Args:
        examples: what follows the name of the command.
        checks_database: whether the tables must be those of this version, and TOKEN_KEYS must open what is stored.
        options: of `AppGroup.command`.
    """
    call = " ".join(filter(None, ("  ./keap-connect", within.name, name)))
    lines = "\n".join(f"{call} {example}".rstrip() for example in examples)

    def add(function: Callable[..., Answer]) -> click.Command:
        @wraps(function)
        def run(*args: Any, **values: Any) -> None:
            is_json = values.pop("as_json", False)
            _check_text(values)
            try:
                if checks_database:
                    check_deployment()
                answer = function(*args, **values)
            except KeapConnectError as problem:
                answer = _failed(problem)
            except OperationalError as problem:
                reason = f"The database fails: {cut(str(problem.orig), 300)}. Try again in a minute."
                answer = _failed(DatabaseSilent(reason))
            except (click.ClickException, click.Abort):
                raise
            except Exception as problem:  # a person reads a sentence, and a script JSON
                if type(problem) is DatabaseError:  # its subclasses are faults of this program
                    answer = _failed(DatabaseDamaged(cut(str(problem.orig))))
                else:
                    log.debug("A command failed.", exc_info=problem)
                    answer = _failed(KeapConnectError(FAULT.format(type(problem).__name__)))
            if checks_database:  # the others need none, and call Keap only to look
                with suppress(SQLAlchemyError):
                    report_counted()
            if is_json:
                click.echo(as_json(answer.document))
            elif answer.text:
                click.echo(answer.text)
            if answer.note:
                click.echo(answer.note, err=True)
            sys.exit(answer.code)

        if speaks_json:
            click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")(run)
        epilog = f"\b\nExamples:\n{lines}\n\n{EXIT_CODES}"
        made: click.Command = within.command(name, epilog=epilog, **options)(run)
        return made

    return add


def wants_json() -> bool:
    """Whether the current command was given --json."""
    return bool(click.get_current_context().params.get("as_json"))


def confirm(question: str) -> None:
    """Ask, and end the command unless the answer is yes."""
    click.confirm(question, abort=True, err=True)


def asks(question: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Let a command ask before it begins, unless --yes is given."""

    def ask(_ctx: click.Context, _option: click.Parameter, is_agreed: bool) -> None:
        if not is_agreed:
            confirm(question)

    return click.option("--yes", is_flag=True, expose_value=False, callback=ask, help="Do not ask.")


def _check_text(values: Mapping[str, object]) -> None:
    """Refuse bytes that are not UTF-8: they come as lone surrogates, which no database can store."""
    for name, value in values.items():
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise click.BadParameter("it is not UTF-8 text.", param_hint=name.replace("_", "-"))


def _failed(problem: KeapConnectError) -> Answer:
    document: dict[str, object] = {"error": problem.code, "error_description": str(problem)}
    document["is_retryable"] = problem.exit_code is ExitCode.COME_BACK_LATER
    if problem.retry_after_seconds is not None:
        document["retry_after_seconds"] = problem.retry_after_seconds
    return Answer(document, note=f"Error: {problem}", code=problem.exit_code)

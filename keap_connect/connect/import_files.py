"""Importing many credentials from a CSV file: first looked through line by line, then all of it or nothing."""

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from keap_connect.accounts.labels import tidy_name
from keap_connect.connect.importing import Checked, ImportedCredential, Incoming, check_form, find_place, place
from keap_connect.database import write_transaction
from keap_connect.errors import (
    ImportRefused,
    KeapConnectError,
    LinesRefused,
    NameRefused,
    TemporarilyUnavailable,
)
from keap_connect.events.history import EventKind, record
from keap_connect.keap.user_info import Identity, get_identity
from keap_connect.models import CredentialKind
from keap_connect.services import services
from keap_connect.settings import KeapSettings

COLUMNS = ("kind", "access_token", "refresh_token", "external_id", "label")
NEEDED_COLUMNS = {"kind", "access_token"}
MOST_LINES = 200
MOST_BYTES = 256 * 1024
ASKED_AT_ONCE = 4  # Keap stops spikes of more than 25 calls a second, and each line takes two
SILENT_LINES = 3
HEADER_WRONG = f"The first line must name the columns, out of {', '.join(COLUMNS)}; the first two are needed."


@dataclass(frozen=True)
class PreviewLine:
    """What one line would do. `updates`: what the account is called that would get another credential."""

    number: int
    kind: str
    tenant_id: str | None
    business_name: str | None
    person: str | None
    updates: str | None = None


@dataclass(frozen=True)
class Preview:
    """What a file would do, or what is wrong with it: a sentence for each bad line, by its number."""

    lines: list[PreviewLine]
    problems: dict[int, str]


@dataclass(frozen=True)
class _Numbered:
    """A line as read from the file; line 1 names the columns."""

    number: int
    incoming: Incoming


def preview_file(content: bytes) -> Preview:
    """Look through a file and ask Keap about each of its lines, storing nothing.

    Raises:
        ImportRefused: it is no such file at all.
    """
    checked, problems = _check(content)
    lines = []
    with write_transaction() as session:  # since it locks what it looks at, as the real run does
        for number, one in checked.items():
            try:
                account, _ = find_place(session, one)
            except (ImportRefused, NameRefused) as refusal:
                problems[number] = str(refusal)
                continue
            updates = (account.label or account.business_name or account.tenant_id) if account else None
            lines.append(_preview(number, one, updates))
    return Preview(lines, dict(sorted(problems.items())))


def import_file(content: bytes, actor: str) -> list[int]:
    """Store all lines of a file in one transaction; return the ids of their accounts, in the file's order.

    Raises:
        ImportRefused: it is no such file at all.
        LinesRefused: a line is wrong, or Keap does not accept it. Nothing was changed.
    """
    checked, problems = _check(content)
    if problems:
        raise LinesRefused(problems)
    try:
        return _store(checked, actor)
    except IntegrityError:  # one of the accounts was stored at the same moment
        return _store(checked, actor)


def _store(checked: dict[int, Checked], actor: str) -> list[int]:
    ids = {}
    with write_transaction() as session:
        # In one order for everybody, so that two files at once wait for each other and do not block each other.
        for number in sorted(checked, key=lambda number: _owner(checked[number].identity)):
            try:
                ids[number] = place(session, checked[number], actor)
            except (ImportRefused, NameRefused) as refusal:
                raise LinesRefused({number: str(refusal)}) from refusal
        record(session, EventKind.FILE_IMPORTED, None, actor, count=len(ids))
    return [ids[number] for number in sorted(ids)]


def _check(content: bytes) -> tuple[dict[int, Checked], dict[int, str]]:
    """Return what is good by line number, and what is wrong by line number."""
    problems: dict[int, str] = {}
    read = list(_read(content, problems))
    checked = _ask_keap(read, problems)
    for name, value_of in (
        ("Keap account and person", lambda one: _owner(one.identity)),
        ("external id", lambda one: one.incoming.external_id),
    ):
        first: dict[object, int] = {}
        for number, one in list(checked.items()):
            value = value_of(one)
            if value is not None and first.setdefault(value, number) != number:
                problems[number] = f"It has the same {name} as line {first[value]}."
                del checked[number]
    return checked, problems


def _read(content: bytes, problems: dict[int, str]) -> Iterator[_Numbered]:
    """Give the lines that are right in form. No sentence repeats what stands in a line: it may be a token."""
    if len(content) > MOST_BYTES:
        raise ImportRefused(f"The file is larger than {MOST_BYTES // 1024} kB.")
    try:
        rows = list(_rows(content.decode("utf-8-sig")))
    except UnicodeDecodeError:
        raise ImportRefused("The file is not UTF-8 text. Save it as CSV UTF-8.") from None
    except csv.Error:
        raise ImportRefused("The file is not CSV: a quotation mark is open, or stands where none may.") from None
    names = [name.strip().lower() for name in rows[0][1]] if rows else []
    if not set(COLUMNS) >= set(names) >= NEEDED_COLUMNS or len(set(names)) != len(names):
        raise ImportRefused(HEADER_WRONG)
    if not 1 < len(rows) <= MOST_LINES + 1:
        raise ImportRefused(f"The file has {len(rows) - 1} lines of accounts; 1 to {MOST_LINES} can be imported.")
    for number, row in rows[1:]:
        try:
            incoming = _incoming(names, row)
            check_form(incoming)
        except (ImportRefused, NameRefused) as refusal:
            problems[number] = str(refusal)
        else:
            yield _Numbered(number, incoming)


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Give each row that is not blank, with the number of the line it begins at."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    for row in reader:
        if any(value.strip() for value in row):
            yield number, row
        number = reader.line_num + 1


def _incoming(names: list[str], row: list[str]) -> Incoming:
    if len(row) != len(names):
        raise ImportRefused(f"It has {len(row)} values, but the first line names {len(names)} columns.")
    values = dict(zip(names, (value.strip() for value in row), strict=True))
    if values["kind"] not in set(CredentialKind):
        raise ImportRefused(f"The kind must be one of {', '.join(CredentialKind)}.")
    refresh_token = values.get("refresh_token") or None
    credential = ImportedCredential(values["access_token"], refresh_token, kind=CredentialKind(values["kind"]))
    return Incoming(credential, tidy_name(values.get("external_id")), tidy_name(values.get("label")))


def _ask_keap(lines: list[_Numbered], problems: dict[int, str]) -> dict[int, Checked]:
    """Ask Keap whose each credential is, a few at a time; once it is silent for several lines, no more are asked."""
    keap = services().keap
    silent: list[int] = []

    def ask(line: _Numbered) -> Identity | KeapConnectError:
        if len(silent) >= SILENT_LINES:
            return TemporarilyUnavailable("It was not checked, since Keap does not answer. Try again in a minute.")
        answer = _answer(keap, line)
        if isinstance(answer, TemporarilyUnavailable):
            silent.append(line.number)
        return answer

    checked = {}
    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        for line, answer in zip(lines, threads.map(ask, lines), strict=True):
            if isinstance(answer, Identity):
                checked[line.number] = Checked(line.incoming, answer)
            else:
                problems[line.number] = str(answer)
    return checked


def _answer(keap: KeapSettings, line: _Numbered) -> Identity | KeapConnectError:
    try:
        return get_identity(keap, line.incoming.credential.access_token)
    except KeapConnectError as refusal:
        return refusal


def _owner(identity: Identity) -> tuple[str, str]:
    return identity.tenant_id or "", identity.keap_user_id or ""


def _preview(number: int, one: Checked, updates: str | None) -> PreviewLine:
    identity = one.identity
    return PreviewLine(
        number=number,
        kind=one.incoming.credential.kind,
        tenant_id=identity.tenant_id,
        business_name=identity.business_name,
        person=identity.person_name or identity.person_email,
        updates=updates,
    )

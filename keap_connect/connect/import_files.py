"""Importing many credentials from a CSV file: first each line is checked, then all lines are stored or none."""

import csv
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy.orm import Session

from keap_connect.accounts.naming import person_of, tidy_name
from keap_connect.connect.importing import Checked, ImportedCredential, check_form, find_target, store_checked
from keap_connect.database import write_or_retry, write_transaction
from keap_connect.errors import ImportRefused, KeapConnectError, LinesRefused, NameRefused, TemporarilyUnavailable
from keap_connect.events.history import EventKind, record
from keap_connect.keap.user_info import Identity, get_identity
from keap_connect.models import CredentialKind
from keap_connect.services import services

COLUMNS = ("kind", "access_token", "refresh_token", "external_id", "label")
MOST_LINES = 200
MOST_BYTES = 256 * 1024
ASKED_AT_ONCE = 4  # Keap stops spikes of more than 25 calls a second, and each line takes two
SILENT_LINES = 3


@dataclass(frozen=True)
class PreviewLine:
    """What one line would do. `updates` is the title of the account whose credential would be replaced."""

    number: int
    kind: str
    tenant_id: str | None
    business_name: str | None
    person: str
    updates: str | None = None


@dataclass(frozen=True)
class Preview:
    """What a file would do, and a sentence for each bad line, by its number."""

    lines: list[PreviewLine]
    problems: dict[int, str]


def preview_file(content: bytes) -> Preview:
    """Check a file and ask Keap about each of its lines; store nothing.

    Raises:
        ImportRefused: it is not a file that can be imported.
    """
    checked, problems = _check(content)
    lines = []
    with write_transaction() as session:  # `find_target` locks
        for number, one in checked.items():
            try:
                account, _ = find_target(session, one)
            except (ImportRefused, NameRefused) as refusal:
                problems[number] = str(refusal)
                continue
            line = PreviewLine(
                number=number,
                kind=one.credential.kind,
                tenant_id=one.identity.tenant_id,
                business_name=one.identity.business_name,
                person=person_of(one.identity),
                updates=account.title if account else None,
            )
            lines.append(line)
    return Preview(lines, dict(sorted(problems.items())))


def import_file(content: bytes, actor: str) -> list[int]:
    """Store all lines of a file in one transaction; return the ids of their accounts, in the file's order.

    Raises:
        ImportRefused: it is not a file that can be imported.
        LinesRefused: a line is wrong, or Keap does not accept it. Nothing was changed.
    """
    checked, problems = _check(content)
    if problems:
        raise LinesRefused(problems)

    def store(session: Session) -> list[int]:
        ids = {}
        # Always in the same order, so that two imports at the same time cannot deadlock.
        for number in sorted(checked, key=lambda number: _owner(checked[number])):
            try:
                ids[number] = store_checked(session, checked[number], actor)
            except (ImportRefused, NameRefused) as refusal:
                raise LinesRefused({number: str(refusal)}) from refusal
        record(session, EventKind.FILE_IMPORTED, None, actor, count=len(ids))
        return [ids[number] for number in sorted(ids)]

    return write_or_retry(store)


def _check(content: bytes) -> tuple[dict[int, Checked], dict[int, str]]:
    """Return the good lines and the problems, each by line number."""
    problems: dict[int, str] = {}
    checked = _ask_keap(_read(content, problems), problems)
    names: dict[str, Callable[[Checked], object]] = {
        "Keap account and person": _owner,
        "external id": lambda one: one.credential.external_id,
    }
    for name, value_of in names.items():
        first: dict[object, int] = {}
        for number, one in list(checked.items()):
            value = value_of(one)
            if value and first.setdefault(value, number) != number:
                problems[number] = f"It has the same {name} as line {first[value]}."
                del checked[number]
    return checked, problems


def _read(content: bytes, problems: dict[int, str]) -> dict[int, ImportedCredential]:
    """Return the lines that have the right form. No problem quotes a line, which may contain a token."""
    if len(content) > MOST_BYTES:
        raise ImportRefused(f"The file is larger than {MOST_BYTES // 1024} kB.")
    try:
        rows = list(_rows(content.decode("utf-8-sig")))
    except UnicodeDecodeError:
        raise ImportRefused("The file is not UTF-8 text. Save it as CSV UTF-8.") from None
    except csv.Error:
        raise ImportRefused("The file is not CSV: a quotation mark is open or in a wrong place.") from None
    names = [name.strip().lower() for name in rows[0][1]] if rows else []
    if not set(COLUMNS) >= set(names) >= set(COLUMNS[:2]) or len(set(names)) != len(names):
        raise ImportRefused(
            f"The first line must name the columns, out of {', '.join(COLUMNS)}; the first two are needed."
        )
    if not 1 < len(rows) <= MOST_LINES + 1:
        raise ImportRefused(f"The file has {len(rows) - 1} lines of accounts; 1 to {MOST_LINES} can be imported.")
    good = {}
    for number, row in rows[1:]:
        try:
            good[number] = _credential(names, row)
        except (ImportRefused, NameRefused) as refusal:
            problems[number] = str(refusal)
    return good


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank, with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    for row in reader:
        if any(value.strip() for value in row):
            yield number, row
        number = reader.line_num + 1


def _credential(names: list[str], row: list[str]) -> ImportedCredential:
    if len(row) != len(names):
        raise ImportRefused(f"It has {len(row)} values, but the first line names {len(names)} columns.")
    values = {name: value.strip() or None for name, value in zip(names, row, strict=True)}
    if values["kind"] not in set(CredentialKind):
        raise ImportRefused(f"The kind must be one of {', '.join(CredentialKind)}.")
    credential = ImportedCredential(
        access_token=values["access_token"] or "",
        refresh_token=values.get("refresh_token"),
        kind=CredentialKind(values["kind"]),
        external_id=tidy_name(values.get("external_id")),
        label=values.get("label"),
    )
    check_form(credential)
    return credential


def _ask_keap(credentials: dict[int, ImportedCredential], problems: dict[int, str]) -> dict[int, Checked]:
    """Ask Keap whose each credential is, a few at a time; stop after several lines without an answer."""
    keap = services().keap
    silences: list[TemporarilyUnavailable] = []

    def ask(credential: ImportedCredential) -> Identity | KeapConnectError:
        if len(silences) >= SILENT_LINES:
            return TemporarilyUnavailable("It was not checked, since Keap does not answer. Try again in a minute.")
        try:
            return get_identity(keap, credential.access_token)
        except TemporarilyUnavailable as silence:
            silences.append(silence)
            return silence
        except KeapConnectError as refusal:
            return refusal

    checked = {}
    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        for number, answer in zip(credentials, threads.map(ask, credentials.values()), strict=True):
            if isinstance(answer, Identity):
                checked[number] = Checked(credentials[number], answer)
            else:
                problems[number] = str(answer)
    return checked


def _owner(checked: Checked) -> tuple[str, str]:
    return checked.identity.tenant_id or "", checked.identity.keap_user_id or ""

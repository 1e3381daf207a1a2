"""A file of credentials: every bad line named by its number, and all of it stored or nothing."""

from collections.abc import Callable

import pytest
from flask import Flask

from keap_connect.connect.import_files import MOST_BYTES, MOST_LINES, SILENT_LINES, import_file, preview_file
from keap_connect.connect.pending_files import find_pending_file, forget_pending_file, store_pending_file
from keap_connect.database import read_session
from keap_connect.errors import ImportRefused, LinesRefused
from keap_connect.models import AccountEvent, PendingFile
from tests.flows.stored import Stored
from tests.support.sandbox import Sandbox

ADMIN = "admin@example.com"
HEADER = "kind,access_token,refresh_token,external_id,label\n"
BEN, CLEO = "ben.ortiz@example.com", "cleo.marsh@example.com"
sqlite_only = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def good_lines(sandbox: Sandbox) -> str:
    """Return a file of three kinds for three accounts."""
    access_token, refresh_token = sandbox.generate_token(CLEO, "ef789")
    return (
        f"{HEADER}oauth,{access_token},{refresh_token},customer:9,Cedar\n"
        f"\n"
        f"personal_access_token,{sandbox.make_key(person=BEN)},,,\n"
        f'service_account_key,{sandbox.make_key("service_account_key", tenant="cd456")},,,"Dental, bright"\n'
    )


def test_good_file_is_previewed_without_storing_and_then_stored_as_a_whole(stored: Stored, sandbox: Sandbox):
    content = good_lines(sandbox).encode("utf-8-sig")
    known = stored.place("cd456")
    before = stored.rows()

    preview = preview_file(content)

    assert stored.rows() == before
    assert preview.problems == {}
    assert [(line.number, line.tenant_id, line.updates) for line in preview.lines] == [
        (2, "ef789", None),
        (4, "ab123", None),
        (5, "cd456", "Bright Dental"),
    ]
    ids = import_file(content, ADMIN)
    assert ids[2] == known
    assert [stored.account(one).tenant_id for one in ids] == ["ef789", "ab123", "cd456"]
    assert [stored.account(one).label for one in ids] == ["Cedar", None, "Dental, bright"]
    assert stored.mixed_up() == []
    with read_session() as session:
        events = [(event.kind, event.actor) for event in session.query(AccountEvent).order_by(AccountEvent.id)]
    assert events[-1] == ("file_imported", ADMIN)


@pytest.mark.parametrize("spoil", [preview_file, lambda content: import_file(content, ADMIN)])
def test_bad_lines_are_named_and_nothing_is_stored(spoil: Callable[[bytes], object], stored: Stored, sandbox: Sandbox):
    key = sandbox.make_key()
    stored.place("ef789", CLEO, external_id="taken")
    before = stored.rows()
    lines = {
        2: f"personal_access_token,{key},,,",
        3: f"service_account_key,{key},,,",
        4: "oauth,too,few",
        5: f"password,{key},,,",
        6: f"oauth,{key},,,",
        7: "service_account_key,KeapAK-unknown-to-keap,,,",
        8: f"personal_access_token,{sandbox.make_key(person=BEN)},,a b,",
        9: f"service_account_key,{sandbox.make_key(tenant='cd456')},,taken,",
        10: f"access_token_only,{sandbox.generate_token(CLEO, 'ef789')[0]},,,",
    }
    content = (HEADER + "\n".join(lines.values())).encode()

    try:
        problems = spoil(content).problems
    except LinesRefused as refusal:
        problems = refusal.problems

    if spoil is preview_file:
        assert list(problems) == [3, 4, 5, 6, 7, 8, 9, 10]
        assert "same Keap account and person as line 2" in problems[3]
        assert "Another account has this external id already" in problems[9]
    assert set(problems) >= {3, 4, 5, 6, 7, 8}
    assert key not in str(problems)
    assert stored.rows() == before


@sqlite_only
def test_line_that_fails_last_undoes_the_lines_before_it(stored: Stored, sandbox: Sandbox):
    stored.place("ef789", CLEO)
    before, told = stored.rows(), stored.rows("account_event")
    bare = sandbox.generate_token(CLEO, "ef789")[0]
    content = f"{HEADER}personal_access_token,{sandbox.make_key()},,,\naccess_token_only,{bare},,,\n"

    with pytest.raises(LinesRefused, match="Line 3: This Keap account is connected already"):
        import_file(content.encode(), ADMIN)

    assert (stored.rows(), stored.rows("account_event")) == (before, told)


@sqlite_only
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "first line must name the columns"),
        (b"oauth,abcdefghijkl\n", "first line must name the columns"),
        (b"kind,access_token,secret\n", "first line must name the columns"),
        (b"kind,kind,access_token\n", "first line must name the columns"),
        (HEADER.encode(), "has 0 lines"),
        (HEADER.encode() + b"oauth,x,y,,\n" * (MOST_LINES + 1), f"has {MOST_LINES + 1} lines"),
        (HEADER.encode() + b'oauth,"x\n', "not CSV"),
        (HEADER.encode("utf-16"), "not UTF-8"),
        (HEADER.encode() + b"\n" * MOST_BYTES, "larger than 256 kB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_such_file_is_refused_as_a_whole(app: Flask, content: bytes, words: str):
    with pytest.raises(ImportRefused, match=words) as refusal:
        preview_file(content)

    assert "abcdefghijkl" not in str(refusal.value)


@sqlite_only
def test_keap_is_asked_no_more_once_it_is_silent(app: Flask, sandbox: Sandbox):
    sandbox.fault("html_503", "api")
    content = HEADER + "personal_access_token,KeapAK-some-key,,,\n" * 20

    problems = preview_file(content.encode()).problems

    asked = len(sandbox.ledger()["presentations"])
    assert list(problems) == list(range(2, 22))
    assert asked < 2 * (SILENT_LINES + 4) + 1
    assert "not checked" in problems[21]


@sqlite_only
def test_file_waits_sealed_for_its_own_admin_and_for_ten_minutes(app: Flask, sandbox: Sandbox, clock):
    content = good_lines(sandbox).encode()
    store_pending_file(1, content, preview_file(content))

    held = find_pending_file(1)
    with read_session() as session:
        at_rest = session.get_one(PendingFile, 1).sealed

    assert held is not None
    assert (held.content, [line.number for line in held.lines]) == (content, [2, 4, 5])
    assert b"KeapAK-" not in at_rest
    assert content.splitlines()[1] not in repr(held).encode()
    assert find_pending_file(2) is None
    clock.advance(minutes=10)
    assert find_pending_file(2) is None
    with read_session() as session:
        assert session.get(PendingFile, 1) is None


@sqlite_only
def test_file_that_is_forgotten_is_gone(app: Flask, sandbox: Sandbox):
    content = good_lines(sandbox).encode()
    store_pending_file(1, content, preview_file(content))

    forget_pending_file(1)

    assert find_pending_file(1) is None

"""One thing for many accounts: what is offered, what the worker does, and what it says afterwards."""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from flask import Flask
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from keap_connect.accounts import search
from keap_connect.accounts.changes import erase
from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.accounts.directory import PAGE_SIZE
from keap_connect.clock import utc_now
from keap_connect.connect import invitation_lists
from keap_connect.connect.invitations import NewInvitation, add_invitation, resend_in
from keap_connect.connect.matching import merge
from keap_connect.connect.reconnect_links import revoke_link
from keap_connect.database import read_session, write_transaction
from keap_connect.errors import ClientMisconfigured
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.events.mailing import CUSTOMER_MAIL
from keap_connect.jobs import bulk, records, runner
from keap_connect.jobs.records import ItemOutcome, list_items, stop_job, view_job
from keap_connect.jobs.runner import PAUSE, JobRunner, _open, _settle
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import CLIENT_REFUSED, LARGEST_ID, Account, AccountEvent, Delivery, Invitation, Job, JobItem
from keap_connect.refresh.alarms import raise_alarm
from keap_connect.web.bulk import LISTS
from keap_connect.web.invitations import SHOWN
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, MovedClock
from tests.flows.stored import files_of, has_pieces_of
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor

DAY = timedelta(days=1)


@pytest.fixture
def add(app: Flask) -> Callable[..., list[int]]:
    """Give the function that stores accounts with made-up tokens."""

    def store(count: int, **facts: object) -> list[int]:
        with app.app_context(), write_transaction() as session:
            rows = [new_account(session, None, None) for _ in range(count)]
            for row in rows:
                replace_credential(row, TokenResponse("made-up-access-token", "made-up-refresh", utc_now() + DAY))
                row.business_name = f"Company {row.id}"
                for name, value in facts.items():
                    setattr(row, name, value)
            return [row.id for row in rows]

    return store


def connect_again(session: Session, account_id: int, waited: timedelta = timedelta()) -> None:
    """Store a grant in an account; it came so long ago, and then had to be confirmed."""
    account = session.get_one(Account, account_id)
    replace_credential(account, TokenResponse("a-fresh-access-token", "a-fresh-refresh", utc_now() + DAY))
    account.connected_at -= waited
    record(session, EventKind.RECONNECTED, account_id, Actor.CUSTOMER)


def choose(admin: Visitor, act: str, ids: list[int], **query: object) -> str:
    """Tick accounts and press a button above the list; return the page that asks what is meant."""
    return admin.get("/accounts/bulk", params={"act": act, "account": ids, **query}).text


def confirm(admin: Visitor, ids: list[int], **fields: str) -> int:
    """Press the button of that page; return the id of the job."""
    admin.press("/accounts/bulk", account=ids, **fields)  # type: ignore[arg-type]
    return int(admin.page.url.rpartition("/")[2])


def labels(app: Flask) -> list[str | None]:
    with app.app_context(), read_session() as session:
        return list(session.scalars(select(Account.label).order_by(Account.id)))


@on_sqlite
def test_the_worker_refreshes_ticked_accounts_and_says_which_failed_and_why(
    app: Flask, admin: Visitor, new_visitor: Callable[[], Visitor], add: Callable[..., list[int]]
):
    new_visitor().connect()
    (gone,) = add(1, disconnected_at=utc_now())
    assert "Refresh now: 2 accounts" in choose(admin, "refresh", [1, gone])

    job_id = confirm(admin, [1, gone])
    assert "0 of 2 accounts done" in admin.text
    with app.app_context():
        JobRunner(app).do_due()
        job, items = view_job(job_id), list_items(job_id, None, 9)
        with read_session() as session:
            event = session.scalars(select(AccountEvent).where(AccountEvent.kind == "bulk_started")).one()
            actor = session.scalars(select(AccountEvent.actor).where(AccountEvent.kind == "refreshed")).one()

    assert (job.done, job.refused, [item.outcome for item, _ in items]) == (1, 1, ["done", "refused"])
    assert (event.actor, event.details["count"], actor) == (ADMIN_EMAIL, 2, ADMIN_EMAIL)
    page = admin.get(f"/jobs/{job_id}").text
    assert "1 account done, 1 failed." in page
    assert "This account was disconnected" in page


@on_sqlite
@pytest.mark.parametrize("act", ["refresh", "label", "links"])
def test_a_ticked_account_that_was_erased_meanwhile_is_named_with_the_reason(
    app: Flask, admin: Visitor, add: Callable[..., list[int]], act: str
):
    gone, there = add(2)
    choose(admin, act, [gone, there])
    with app.app_context():
        erase(gone, ADMIN_EMAIL)

    job_id = confirm(admin, [gone, there], label="A", password=ADMIN_PASSWORD)
    assert "0 of 2 accounts done" in admin.text
    with app.app_context():
        JobRunner(app).do_due()
        items = [item for item, _ in list_items(job_id, None, 9)]

    assert items[0].outcome == "refused"
    assert f"account {gone}" in items[0].details["problem"].lower()
    assert len(items) == 2


@on_sqlite
def test_all_that_match_are_offered_for_a_whole_page_only_and_done_in_batches(
    app: Flask, admin: Visitor, add: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 20)
    ids, gone = add(PAGE_SIZE + 7), add(3, disconnected_at=utc_now())
    assert "that match" not in choose(admin, "label", ids[: PAGE_SIZE - 1], state="active")
    assert "that match" not in choose(admin, "label", ids[:PAGE_SIZE], q=f"company {ids[0]}")
    assert f"All {PAGE_SIZE + 7} that match" in choose(admin, "label", ids[:PAGE_SIZE], state="active")

    job_id = confirm(admin, ids[:PAGE_SIZE], which="all", label="Group A")
    late = add(1)
    assert f"0 of {PAGE_SIZE + 7} accounts done" in admin.text
    with app.app_context():
        JobRunner(app).do_due()
        job = view_job(job_id)

    assert (job.done, job.refused, job.waiting, job.job.rest) == (PAGE_SIZE + 7, 0, 0, None)
    assert labels(app) == ["Group A"] * len(ids) + [None] * len(gone + late)


@on_sqlite
def test_all_that_match_are_not_offered_for_a_search_that_finds_only_a_part(
    app: Flask, admin: Visitor, add: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "MOST_CANDIDATES", PAGE_SIZE + 1)
    ids = add(PAGE_SIZE + 3)

    page = choose(admin, "label", ids[:PAGE_SIZE], q="company")
    assert ('name="which"' in page, "Type one more word" in page) == (False, True)
    page = admin.press("/accounts/bulk", account=ids[:PAGE_SIZE], which="all", label="A").text  # type: ignore[arg-type]

    assert "cannot be chosen" in page
    with app.app_context(), read_session() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


@on_sqlite
def test_a_whole_page_alone_leaves_the_others_as_they_are(app: Flask, admin: Visitor, add: Callable[..., list[int]]):
    ids = add(PAGE_SIZE + 1)
    choose(admin, "label", ids[:PAGE_SIZE])

    confirm(admin, ids[:PAGE_SIZE], which="page", label="Group A")
    with app.app_context():
        JobRunner(app).do_due()

    assert labels(app) == ["Group A"] * PAGE_SIZE + [None]


@on_sqlite
def test_a_job_on_a_filter_that_is_stopped_does_nothing_more(
    app: Flask, admin: Visitor, add: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 20)
    ids = add(PAGE_SIZE + 5)
    choose(admin, "label", ids[:PAGE_SIZE])
    job_id = confirm(admin, ids[:PAGE_SIZE], which="all", label="Group A")
    with app.app_context():
        bulk.add_next_items(job_id)

    admin.press(f"/jobs/{job_id}/stop")
    with app.app_context():
        bulk.add_next_items(job_id)
        JobRunner(app).do_due()
        job = view_job(job_id)

    assert (job.done, job.stopped, job.waiting) == (0, PAGE_SIZE + 5, 0)
    assert labels(app) == [None] * len(ids)
    assert f"{PAGE_SIZE + 5} not done" in admin.text


@on_sqlite
def test_disconnecting_many_asks_for_their_number_and_the_password(
    app: Flask, admin: Visitor, add: Callable[..., list[int]]
):
    ids = add(3)
    choose(admin, "disconnect", ids[:2])
    for number, password, problem in (("3", ADMIN_PASSWORD, "Type 2, the number"), ("2", "x", "password is wrong")):
        page = admin.press("/accounts/bulk", account=ids[:2], count=number, password=password)  # type: ignore[arg-type]
        assert (page.status_code in {401, 422}, problem in page.text) == (True, True), problem

    confirm(admin, ids[:2], count="2", password=ADMIN_PASSWORD)
    with app.app_context():
        JobRunner(app).do_due()
        with read_session() as session:
            left = session.scalars(select(Account.id).where(Account.disconnected_at.is_(None))).all()

    assert left == ids[2:]


@on_sqlite
@pytest.mark.proves("R25")
def test_tokens_of_accounts_disconnected_together_are_nowhere_in_the_database_files(
    app: Flask, admin: Visitor, add: Callable[..., list[int]]
):
    ids = add(2)
    with app.app_context(), read_session() as session:
        sealed = [row.refresh_token_sealed or b"" for row in session.scalars(select(Account).order_by(Account.id))]
    choose(admin, "disconnect", ids)
    confirm(admin, ids, count="2", password=ADMIN_PASSWORD)
    assert [has_pieces_of(one, files_of(app)) for one in sealed] == [True, True]

    with app.app_context():
        JobRunner(app).do_due()

    assert [has_pieces_of(one, files_of(app)) for one in sealed] == [False, False]


@on_sqlite
def test_links_are_a_file_of_name_address_and_link_and_each_link_works(
    app: Flask, admin: Visitor, new_visitor: Callable[[], Visitor], add: Callable[..., list[int]]
):
    ids = add(2, person_name="Ann Lee", person_email="ann@example.com")
    choose(admin, "links", ids)
    assert "password is wrong" in admin.press("/accounts/bulk", account=ids).text  # type: ignore[arg-type]
    job_id = confirm(admin, ids, password=ADMIN_PASSWORD)
    with app.app_context():
        JobRunner(app).do_due()
        items = [(item.work_sealed, item.details) for item, _ in list_items(job_id, None, 9)]

    admin.get(f"/jobs/{job_id}/links")
    assert "password is wrong" in admin.press(f"/jobs/{job_id}/links", password="x").text
    rows = list(csv.DictReader(admin.press(f"/jobs/{job_id}/links", password=ADMIN_PASSWORD).text.splitlines()))

    assert [(row["name"], row["address"], row["account_id"]) for row in rows] == [
        ("Ann Lee", "ann@example.com", str(one)) for one in ids
    ]
    for row in rows:
        assert new_visitor().get(row["link"]).status_code == 200
        assert row["link"].rpartition("/")[2] not in str(items)
    assert "Opened" in admin.get(f"/accounts/{ids[0]}").text
    with app.app_context(), read_session() as session:
        made = select(func.count()).where(AccountEvent.kind == "reconnect_link_made", AccountEvent.actor == ADMIN_EMAIL)
        assert session.scalar(made) == 2
        file = session.scalars(select(AccountEvent).where(AccountEvent.kind == "links_downloaded")).one()
        assert (file.actor, file.details["job"], file.details["count"]) == (ADMIN_EMAIL, job_id, 2)

    with app.app_context():
        revoke_link(ids[0], 1, ADMIN_EMAIL)
    admin.get(f"/jobs/{job_id}/links")
    left = admin.press(f"/jobs/{job_id}/links", password=ADMIN_PASSWORD).text
    assert list(csv.DictReader(left.splitlines())) == rows[1:]


@on_sqlite
def test_an_export_holds_the_ticked_accounts_or_all_that_match(admin: Visitor, add: Callable[..., list[int]]):
    ids, gone = add(PAGE_SIZE + 2), add(1, disconnected_at=utc_now())

    def exported(which: str, chosen: list[int], **query: object) -> list[int]:
        choose(admin, "export", chosen, **query)
        fields = {"account": chosen, "which": which, "password": ADMIN_PASSWORD}
        file = admin.press("/accounts/bulk", **fields).text  # type: ignore[arg-type]
        return [int(found) for found in re.findall(r"^(\d+),", file, re.MULTILINE)]

    assert exported("page", [ids[1], *gone]) == [ids[1], *gone]
    assert exported("all", ids[:PAGE_SIZE], state="active") == ids


@on_sqlite
def test_nothing_ticked_leads_back_to_the_list_with_its_filter(admin: Visitor, add: Callable[..., list[int]]):
    add(1)

    admin.get(f"/accounts/bulk?act=refresh&q=company&state=active&account={LARGEST_ID + 1}")

    assert admin.page.url.endswith("/accounts?q=company&state=active")
    assert "Tick the accounts first." in admin.text


MAILS = {"SMTP_URL": "smtp://127.0.0.1:1", "MAIL_FROM": "Acme Sync <connect@example.com>", "CUSTOMER_MAIL": "on"}


@on_sqlite
@pytest.mark.parametrize("environ", [MAILS], indirect=True)
def test_links_by_mail_go_to_those_who_must_reconnect_and_take_the_place_of_waiting_ones(
    app: Flask, admin: Visitor, add: Callable[..., list[int]]
):
    (lost,) = add(1, person_email="ann@example.com", refused_at=utc_now())
    (well,) = add(1, person_email="ben@example.com")
    assert "By mail from this app" in choose(admin, "links", [lost, well])

    confirm(admin, [lost, well], how="mail")
    choose(admin, "links", [lost, well])
    job_id = confirm(admin, [lost, well], how="mail")
    with app.app_context():
        JobRunner(app).do_due()
        job = view_job(job_id)
        with read_session() as session:
            mails = select(Delivery).where(Delivery.channel == CUSTOMER_MAIL).order_by(Delivery.id)
            written = [(one.recipient, one.status, one.due_at <= utc_now()) for one in session.scalars(mails)]

    assert (job.done, job.refused) == (1, 1)
    assert written[-2:] == [("ann@example.com", status, True) for status in ("cancelled", "waiting")]


@on_sqlite
@pytest.mark.parametrize("environ", [MAILS], indirect=True)
def test_a_page_that_was_opened_before_a_mail_was_sent_sends_no_second_one(
    app: Flask, admin: Visitor, add: Callable[..., list[int]]
):
    ids = add(2, person_email="ann@example.com", refused_at=utc_now())
    choose(admin, "links", ids)
    opened = admin.page  # by another admin, or before somebody went back to it
    confirm(admin, ids[:1], how="mail")
    with app.app_context():
        JobRunner(app).do_due()
        with write_transaction() as session:
            waits = Delivery.channel == CUSTOMER_MAIL, Delivery.account_id == ids[0], Delivery.status == "waiting"
            session.execute(update(Delivery).where(*waits).values(status="sent", finished_at=utc_now()))

    admin.page = opened
    job_id = confirm(admin, ids, how="mail")
    with app.app_context():
        JobRunner(app).do_due()
        items = [item for item, _ in list_items(job_id, None, 9)]

    assert [item.outcome for item in items] == ["refused", "done"]
    assert items[0].details["problem"] == "A mail with a link was sent after you opened the page."


@on_sqlite
@pytest.mark.parametrize("environ", [MAILS], indirect=True)
def test_one_link_is_mailed_by_the_app_or_shown_with_a_ready_text(
    app: Flask, admin: Visitor, add: Callable[..., list[int]]
):
    (lost,) = add(1, person_email="ann@example.com", refused_at=utc_now())
    (well,) = add(1, person_email="ben@example.com")

    admin.get(f"/accounts/{lost}")
    page = admin.press(f"/accounts/{lost}/reconnect-links", how="mail").text
    assert "A mail with the link is sent to ann@example.com" in page
    with app.app_context(), read_session() as session:
        asked = select(AccountEvent.account_id, AccountEvent.actor)
        asked = asked.where(AccountEvent.kind == "reconnect_mail_asked_for")
        assert session.execute(asked).all() == [(lost, ADMIN_EMAIL)]
    assert "Mail reconnect link" not in admin.get(f"/accounts/{well}").text
    assert "No mail was sent." in admin.press(f"/accounts/{well}/reconnect-links", how="mail").text
    with app.app_context(), read_session() as session:
        mails = select(Delivery.recipient, Delivery.status).where(Delivery.channel == CUSTOMER_MAIL)
        assert session.execute(mails.order_by(Delivery.id)).all()[-1] == ("ann@example.com", "waiting")

    page = admin.press(f"/accounts/{well}/reconnect-links").text
    assert 'href="mailto:ben@example.com?subject=Reconnect%20Company%20' in page
    assert re.search(rf"please reconnect Company {well} with .*: open this link, .*{admin.base_url}/r/", page)


@on_sqlite
def test_a_disconnect_spares_what_was_connected_again_and_what_came_into_the_state_later(
    app: Flask, admin: Visitor, add: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 20)
    (well,) = add(1)
    ids = add(PAGE_SIZE + 1, refused_at=utc_now())
    choose(admin, "disconnect", ids[:PAGE_SIZE], state="reconnect_required")
    fields = {"count": str(len(ids)), "password": ADMIN_PASSWORD}
    job_id = confirm(admin, ids[:PAGE_SIZE], which="all", **fields)
    with app.app_context():
        with write_transaction() as session:
            session.get_one(Account, well).refused_at = utc_now()  # it comes into the state
        bulk.add_next_items(job_id)
        with write_transaction() as session:
            connect_again(session, ids[0])
        JobRunner(app).do_due()
        with read_session() as session:
            spared = session.scalars(select(Account.id).where(Account.disconnected_at.is_(None))).all()
        job, refused = view_job(job_id), list_items(job_id, ItemOutcome.REFUSED, 9)

    assert spared == [well, ids[0], ids[-1]], "the job ends after as many as were confirmed"
    assert (job.done, job.total) == (PAGE_SIZE - 1, len(ids))
    assert [(item.account_id, item.details["problem"].split(" ")[2]) for item, _ in refused] == [
        (well, "has"),
        (ids[0], "connected"),
    ]


@on_sqlite
@pytest.mark.parametrize("act", ["label", "disconnect", "refresh"])
def test_an_item_that_is_stopped_after_it_was_read_is_left_as_it_is(
    app: Flask, admin: Visitor, add: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch, act: str
):
    ids = add(2)
    choose(admin, act, ids)
    job_id = confirm(admin, ids, label="Group A", count="2", password=ADMIN_PASSWORD)
    refreshed: list[int] = []
    monkeypatch.setattr(bulk, "refresh_account", lambda account_id, _actor: refreshed.append(account_id))

    def open_and_stop(item: JobItem) -> dict[str, object]:
        stop_job(job_id, ADMIN_EMAIL)
        return _open(item)

    monkeypatch.setattr(runner, "_open", open_and_stop)
    monkeypatch.setattr(runner, "AT_ONCE", 1)  # one thread
    monkeypatch.setattr(runner, "at_once", lambda _job: 2)
    with app.app_context():
        JobRunner(app).do_due()
        with read_session() as session:
            left = session.scalars(select(Account.id).where(Account.disconnected_at.is_(None))).all()
        job = view_job(job_id)

    assert (job.stopped, left, labels(app)) == (2, ids, [None, None])
    assert refreshed == (ids[:1] if act == "refresh" else [])


@on_sqlite
def test_refreshes_share_the_budget_and_wait_while_keap_refuses_the_client(
    app: Flask, admin: Visitor, add: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch, clock: MovedClock
):
    ids, calls = add(2), []
    choose(admin, "refresh", ids)
    job_id = confirm(admin, ids)

    def refresh(account_id: int, _actor: str) -> None:
        calls.append(f"refresh {account_id}")
        raise ClientMisconfigured("Keap refuses the client.")

    def reserve(number: int) -> float:
        calls.append(f"reserve {number}")
        return 0.0

    monkeypatch.setattr(bulk, "refresh_account", refresh)
    monkeypatch.setattr(runner, "reserve_calls", reserve)
    with app.app_context():
        JobRunner(app).do_due()
        assert (calls[0], sorted(calls[1:])) == ("reserve 2", [f"refresh {one}" for one in ids])
        first, items = view_job(job_id), list_items(job_id, None, 9)
        with write_transaction() as session:
            raise_alarm(session, CLIENT_REFUSED, "Keap refuses the client.")
        clock.advance(seconds=PAUSE.total_seconds())
        JobRunner(app).do_due()
        second = view_job(job_id)

    assert ([item.tries for item, _ in items], len(calls)) == ([0, 0], 3)
    assert (first.waiting, first.job.trouble) == (2, "Keap refuses the client.")
    assert (second.waiting, second.job.trouble) == (2, "Refreshing is paused. Keap refuses the client.")


@on_sqlite
def test_an_item_that_fails_or_whose_account_is_merged_ends_and_the_others_are_done(
    app: Flask, admin: Visitor, add: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
):
    gone, kept, broken = ids = add(3)
    choose(admin, "refresh", ids)
    job_id = confirm(admin, ids)

    def refresh(account_id: int, _actor: str) -> None:
        if account_id == gone:
            with write_transaction() as session:
                accounts = session.get_one(Account, gone), session.get_one(Account, kept)
                merge(session, *accounts, EventKind.NEWER_STAYED)

    def settle_with_fault(item: JobItem, asked: object) -> bool:
        def finish(_session: object) -> tuple[None, dict[str, object]]:
            raise ZeroDivisionError

        return _settle(item, finish if item.account_id == broken else asked)  # type: ignore[arg-type]

    monkeypatch.setattr(bulk, "refresh_account", refresh)
    monkeypatch.setattr(runner, "_settle", settle_with_fault)
    with app.app_context():
        JobRunner(app).do_due()
        items = [(item.account_id, item.outcome) for item, _ in list_items(job_id, None, 9)]

    assert items == [(kept, "done"), (kept, "done"), (broken, "refused")]


@on_sqlite
def test_a_ticked_account_that_is_connected_again_keeps_its_new_tokens(
    app: Flask, admin: Visitor, add: Callable[..., list[int]]
):
    ids = add(3, refused_at=utc_now())

    choose(admin, "disconnect", ids)
    with app.app_context(), write_transaction() as session:
        connect_again(session, ids[0], waited=DAY)
    admin.press("/accounts/bulk", account=ids, count="3", password="x")  # type: ignore[arg-type]
    job_id = confirm(admin, ids, count="3", password=ADMIN_PASSWORD)
    with app.app_context():
        with write_transaction() as session:
            connect_again(session, ids[1])
        JobRunner(app).do_due()
        job, refused = view_job(job_id), list_items(job_id, ItemOutcome.REFUSED, 9)
        with read_session() as session:
            left = session.scalars(select(Account.id).where(Account.refresh_token_sealed.is_not(None))).all()

    assert left == ids[:2]
    assert (job.done, job.refused) == (1, 2)
    assert {item.details["problem"] for item, _ in refused} == {"It was connected again after you opened the page."}


@pytest.fixture
def invite(app: Flask) -> Callable[..., list[int]]:
    """Give the function that makes invitations."""

    def make(count: int, state: str = "sent", **wanted: str) -> list[int]:
        with app.app_context(), write_transaction() as session:
            rows = [
                add_invitation(session, NewInvitation(f"Company {n}", **wanted), ADMIN_EMAIL).row for n in range(count)
            ]
            for row in rows:
                row.state = state
            return [row.id for row in rows]

    return make


def press_for_invitations(app: Flask, admin: Visitor, act: str, ids: list[int], **fields: str) -> int:
    """Tick invitations, press a button above the list and confirm; return the id of the job, which is done."""
    admin.get("/invitations/bulk", params={"act": act, "invitation": ids, "state": fields.pop("state", "")})
    admin.press("/invitations/bulk", invitation=ids, **fields)  # type: ignore[arg-type]
    assert "/jobs/" in admin.page.url, admin.text
    with app.app_context():
        JobRunner(app).do_due()
    return int(admin.page.url.rpartition("/")[2])


def outcomes(app: Flask, job_id: int) -> list[tuple[int, str | None, str]]:
    with app.app_context():
        items = list_items(job_id, None, 99)
    return [(item.details["invitation"], item.outcome, item.details.get("problem", "")[:24]) for item, _ in items]


def states(app: Flask) -> list[str]:
    with app.app_context(), read_session() as session:
        return list(session.scalars(select(Invitation.state).order_by(Invitation.id)))


@pytest.mark.proves("R15")
@on_sqlite
def test_new_links_of_invitations_are_a_file_and_the_links_before_end(
    app: Flask, admin: Visitor, new_visitor: Callable[[], Visitor], invite: Callable[..., list[int]]
):
    (expired,), (used,) = invite(1, "expired", email="ann@example.com", external_id="crm:1"), invite(1, "connected")
    with app.app_context(), read_session() as session:
        before = session.get_one(Invitation, expired).token_hash

    job_id = press_for_invitations(app, admin, "invitation_links", [expired, used], password=ADMIN_PASSWORD)

    page = admin.get(f"/jobs/{job_id}").text
    assert "1 invitation done, 1 failed." in page
    assert f'href="/invitations/{expired}"' in page
    assert outcomes(app, job_id) == [(expired, "done", ""), (used, "refused", "It is connected, so it g")]
    admin.get(f"/jobs/{job_id}/links")
    (row,) = csv.DictReader(admin.press(f"/jobs/{job_id}/links", password=ADMIN_PASSWORD).text.splitlines())
    link = row.pop("link")
    assert row == {
        "name": "Company 0",
        "address": "ann@example.com",
        "invitation": str(expired),
        "external_id": "crm:1",
    }
    assert "Connect Keap" in new_visitor().get(link).text
    with app.app_context(), write_transaction() as session:
        newer_hash = resend_in(session, expired, "a program").row.token_hash
    admin.get(f"/jobs/{job_id}/links")
    assert len(admin.press(f"/jobs/{job_id}/links", password=ADMIN_PASSWORD).text.splitlines()) == 1
    with app.app_context(), read_session() as session:
        assert session.get_one(Invitation, expired).token_hash == newer_hash != before
        assert session.scalars(select(AccountEvent.details).where(AccountEvent.kind == "bulk_started")).one()["of"] == (
            "invitations"
        )


@on_sqlite
def test_no_more_invitations_are_counted_and_done_at_once_than_the_list_counts(
    app: Flask, admin: Visitor, invite: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
):
    most, ids = SHOWN + 1, invite(SHOWN + 3)
    monkeypatch.setattr(invitation_lists, "MOST_COUNTED", most)
    monkeypatch.setitem(LISTS, "invitations", replace(LISTS["invitations"], most=most))
    admin.get("/invitations/bulk", params={"act": "withdraw", "invitation": ids[3:], "state": "sent"})
    assert f"The oldest {most} of all that match" in admin.text
    with app.app_context():
        assert invitation_lists.count_matching("", "sent") == (most + 1, "")

    admin.press("/invitations/bulk", invitation=ids[3:], which="all")  # type: ignore[arg-type]
    with app.app_context():
        JobRunner(app).do_due()

    assert states(app) == [*["withdrawn"] * most, "sent", "sent"]


@on_sqlite
@pytest.mark.parametrize("act", ["withdraw", "invitation_links"])
def test_a_job_spares_an_invitation_that_got_a_newer_link_or_left_the_filter(
    app: Flask, admin: Visitor, invite: Callable[..., list[int]], act: str
):
    ids = invite(SHOWN + 1, "expired")
    admin.get("/invitations/bulk", params={"act": act, "invitation": ids[1:], "state": "expired"})
    with app.app_context(), write_transaction() as session:
        resend_in(session, ids[0], "a program")
        session.get_one(Invitation, ids[0]).state = "expired"  # the newer one, too
    admin.press("/invitations/bulk", invitation=ids[1:], which="all", password=ADMIN_PASSWORD)  # type: ignore[arg-type]
    job_id = int(admin.page.url.rpartition("/")[2])
    with app.app_context():
        bulk.add_next_items(job_id)
        with write_transaction() as session:
            session.get_one(Invitation, ids[1]).state = "opened"
        JobRunner(app).do_due()

    assert [one for one in outcomes(app, job_id) if one[1] != "done"] == [
        (ids[0], "refused", "It got a newer link afte"),
        (ids[1], "refused", "Its state has changed si"),
    ]
    assert states(app)[:2] == ["expired", "opened"]


@on_sqlite
@pytest.mark.parametrize("environ", [MAILS | {"CUSTOMER_MAIL": "off"}], indirect=True)
def test_invitations_are_sent_again_by_mail_to_those_with_an_address(
    app: Flask, admin: Visitor, invite: Callable[..., list[int]]
):
    (mailed,), (without,) = invite(1, email="ann@example.com"), invite(1)

    job_id = press_for_invitations(app, admin, "invitation_links", [mailed, without], how="mail")

    assert outcomes(app, job_id) == [(mailed, "done", ""), (without, "refused", "There is no address that")]
    with app.app_context(), read_session() as session:
        mails = session.execute(select(Delivery.recipient, Delivery.payload)).all()
        assert session.get_one(Invitation, mailed).is_mailed
    assert [tuple(one) for one in mails] == [("ann@example.com", {"invitation": mailed})]


@pytest.mark.proves("R15")
@on_sqlite
def test_all_invitations_that_match_are_withdrawn_but_those_that_connected_somebody(
    app: Flask, admin: Visitor, invite: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "ROWS_AT_ONCE", 20)
    ids, late = invite(SHOWN + 3), invite(1, "opened")
    with app.app_context(), write_transaction() as session:
        session.get_one(Invitation, ids[0]).state = "connected"
    whole_page = {"act": "withdraw", "invitation": ids[3:], "state": "sent"}
    assert f"All {SHOWN + 2} that match" in admin.get("/invitations/bulk", params=whole_page).text
    with app.app_context(), write_transaction() as session:
        session.get_one(Invitation, ids[1]).state = "expired"  # it leaves the filter
    admin.press("/invitations/bulk", invitation=ids[3:], which="all")  # type: ignore[arg-type]
    with app.app_context(), write_transaction() as session:
        bulk.add_next_items(int(admin.page.url.rpartition("/")[2]))
        session.get_one(Invitation, ids[2]).state = "waiting"  # a grant came meanwhile
    with app.app_context():
        JobRunner(app).do_due()

    job_id = int(admin.page.url.rpartition("/")[2])
    assert states(app) == ["connected", "expired", "waiting", *["withdrawn"] * (SHOWN), *["opened"] * len(late)]
    assert [one for one in outcomes(app, job_id) if one[1] != "done"] == [
        (ids[2], "refused", "Somebody has connected b")
    ]


def test_a_filter_by_the_name_of_a_tenant_takes_every_account_once_in_whatever_order_they_are_stored(
    app: Flask, add: Callable[..., list[int]]
):
    ids = add(5, tenant_id="ab123")
    with app.app_context():
        with write_transaction() as session:
            for number, account in enumerate(session.scalars(select(Account).where(Account.id.in_(ids)))):
                account.keap_user_id = str(9 - number)
        found, cursor = [], 0
        while cursor is not None:
            some, cursor = search.list_ids_after(search.ACCOUNTS, cursor, 2, "tenant:ab123", "")
            found += some

    assert found == ids

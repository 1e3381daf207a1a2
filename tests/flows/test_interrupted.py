"""A process that dies while Keap tells whose a fresh grant is: it was stored before, and goes where it belongs."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from flask import Flask
from sqlalchemy.exc import IntegrityError

from keap_connect.application import create_app
from keap_connect.connect import callback, confirming, matching
from keap_connect.connect.endings import Ending
from keap_connect.database import db
from keap_connect.errors import SealBroken
from keap_connect.keap.authorization import AuthorizationResponse
from keap_connect.refresh.heartbeat import list_workers
from keap_connect.refresh.worker import RefreshWorker
from keap_connect.settings import SANDBOX_CLIENT_ID
from tests.conftest import MovedClock
from tests.flows.endings import assert_ended
from tests.flows.stored import Stored, token_calls
from tests.support.engines import on_postgresql
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

pytestmark = pytest.mark.proves("R28", "F29")


@dataclass
class _OlderResponse:
    """What a version knew that had no date of expiry."""

    access_token: str


def die(*_: object) -> None:
    raise RuntimeError("the process dies")


@pytest.fixture
def result_path(visitor: Visitor, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the process die in the middle of the callback, and give the address of its result."""
    with monkeypatch.context() as dying:
        dying.setattr(callback, "ask_identity", die)
        visitor.connect()
    assert stored.accounts() == []
    (flow,) = stored.flows()
    return f"/connect/{flow.ref}"


@pytest.fixture
def in_app(app: Flask) -> Iterator[None]:
    """Let the test itself do what a process of the app does."""
    with app.app_context():
        yield


@on_postgresql
def test_the_person_who_reloads_finds_the_account_connected(
    visitor: Visitor, stored: Stored, sandbox: Sandbox, clock: MovedClock, result_path: str
):
    visitor.get(result_path)
    assert "Finishing the connection" in visitor.text
    clock.advance(seconds=91)

    visitor.get(result_path)
    again = visitor.get(result_path).text

    assert "Your Keap account is connected" in again
    assert stored.account().tenant_id == "ab123"
    assert stored.flows()[0].pending_grant_sealed is None
    assert stored.history(stored.account().id) == ["connected"]
    assert len(token_calls(sandbox)) == 1


@on_postgresql
@pytest.mark.usefixtures("result_path")
def test_the_worker_connects_the_account_of_a_person_who_went_away(
    app: Flask, stored: Stored, sandbox: Sandbox, clock: MovedClock
):
    with app.app_context():
        RefreshWorker(app).run(until_idle=True)
        assert stored.accounts() == [], "its process may still be alive"
        clock.advance(seconds=91)
        RefreshWorker(app).run(until_idle=True)

    assert stored.account().person_email == "ann.lee@example.com"
    assert len(token_calls(sandbox)) == 1


@pytest.mark.proves("F43")
@pytest.mark.usefixtures("in_app")
@pytest.mark.parametrize("who", ["person", "worker"])
def test_a_grant_does_not_wait_for_a_clock_that_was_set_back(
    visitor: Visitor, stored: Stored, clock: MovedClock, result_path: str, who: str
):
    clock.advance(days=-50)
    if who == "person":
        visitor.get(result_path)
    else:
        callback.complete_interrupted()

    assert stored.account().tenant_id == "ab123"
    assert stored.flows()[0].ending == "connected"


@on_postgresql
@pytest.mark.usefixtures("in_app")
def test_the_person_who_returns_after_another_has_reconnected_the_account_is_not_signed_in(
    visitor: Visitor, admin: Visitor, stored: Stored, clock: MovedClock, result_path: str
):
    clock.advance(seconds=91)
    callback.complete_interrupted()
    admin.reconnect(stored.account().id, person="ben.ortiz@example.com", tenant="ab123")
    assert stored.account().person_email == "ben.ortiz@example.com"

    visitor.get(result_path)

    assert_ended(visitor, Ending.CONNECTED, 200, "Your Keap account is connected", "Acme Plumbing")
    assert "Ben" not in visitor.text
    assert "No account here yet" in visitor.get("/your-accounts").text


@pytest.mark.usefixtures("result_path")
def test_a_process_that_comes_back_late_stores_nothing_twice(app: Flask, stored: Stored, clock: MovedClock):
    (flow,) = stored.flows()
    clock.advance(seconds=91)
    with app.app_context():
        callback.complete_interrupted()
        before = stored.rows()

        callback.identify_and_store(flow)  # it still holds the flow as it was when it froze

    assert stored.rows() == before
    assert stored.flows()[0].ending == "connected"


@pytest.mark.proves("R24")
@pytest.mark.usefixtures("result_path")
def test_a_grant_of_another_client_is_stored_and_its_token_is_sent_nowhere(
    app: Flask, stored: Stored, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
):
    clock.advance(seconds=91)
    object.__setattr__(app.extensions["keap_connect"].settings.keap, "client_id", "another")
    monkeypatch.setattr(callback, "ask_identity", die)
    with app.app_context():
        callback.complete_interrupted()

    account = stored.account()
    assert (account.client_id, account.is_pending) == (SANDBOX_CLIENT_ID, True)
    assert stored.flows()[0].pending_grant_sealed is None


@on_postgresql
@pytest.mark.usefixtures("result_path")
def test_a_worker_that_lacks_the_key_of_a_grant_leaves_it_to_the_others_for_a_day(
    app: Flask, stored: Stored, clock: MovedClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def lack_key(*_: object) -> None:
        raise SealBroken("It was sealed with a key that is not in TOKEN_KEYS.")

    clock.advance(seconds=91)
    other = create_app(app.extensions["keap_connect"].settings)
    with other.app_context(), monkeypatch.context() as lacking:
        lacking.setattr(callback, "open_pending", lack_key)
        for _ in range(3):
            callback.complete_interrupted()
        db.engine.dispose()
    assert len([record for record in caplog.records if "another process may open it" in record.message]) == 1

    with app.app_context():
        callback.complete_interrupted()

    assert stored.flows()[0].ending == "connected"


@on_postgresql
@pytest.mark.usefixtures("result_path")
def test_a_grant_of_another_version_waits_for_it_and_stops_no_worker(
    app: Flask, stored: Stored, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
):
    clock.advance(seconds=91)
    with app.app_context():
        with monkeypatch.context() as older:
            older.setattr(matching, "TokenResponse", _OlderResponse)
            RefreshWorker(app).run(until_idle=True)
            assert confirming.list_waiting() == []
        assert stored.flows()[0].pending_grant_sealed

        app.extensions.pop("keap_connect.grants_put_off")  # the process of the right version looks first
        callback.complete_interrupted()

    assert stored.flows()[0].ending == "connected"


@on_postgresql
@pytest.mark.usefixtures("result_path")
def test_a_fault_with_one_grant_stops_no_worker_and_the_grant_has_its_turn_again(
    app: Flask, stored: Stored, clock: MovedClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    clock.advance(seconds=91)
    with app.app_context():
        with monkeypatch.context() as faulty:
            faulty.setattr(callback, "ask_identity", die)
            for _ in range(2):
                RefreshWorker(app).run(until_idle=True)
        assert len([record for record in caplog.records if "its grant is kept" in record.message]) == 1
        clock.advance(seconds=601)

        RefreshWorker(app).run(until_idle=True)

    assert stored.flows()[0].ending == "connected"


@pytest.mark.usefixtures("result_path")
def test_a_worker_reports_itself_and_goes_on_though_the_database_refuses_one_grant(
    app: Flask, stored: Stored, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> None:
        raise IntegrityError("INSERT", None, Exception())

    clock.advance(seconds=91)
    with app.app_context():
        worker = RefreshWorker(app)
        with monkeypatch.context() as refusing:
            refusing.setattr(matching, "match_grant", refuse)
            with pytest.raises(IntegrityError):
                worker._do_maintenance()
            assert [one.name for one in list_workers()] == [worker.name]
            callback.complete_interrupted()  # others have their turn first
        clock.advance(seconds=91)
        callback.complete_interrupted()

    assert stored.flows()[0].ending == "connected"


@on_postgresql
def test_a_grant_that_does_not_open_ends_the_journey_after_a_day_and_stops_no_worker(
    app: Flask, visitor: Visitor, stored: Stored, clock: MovedClock, result_path: str
):
    with app.app_context():
        stored.edit_kept_grant()
        clock.advance(seconds=91)
        RefreshWorker(app).run(until_idle=True)
        visitor.get(result_path)
        assert_ended(visitor, Ending.INTERRUPTED, 503, "The connection was interrupted")
        assert stored.flows()[0].pending_grant_sealed
        clock.advance(days=1)

        RefreshWorker(app).run(until_idle=True)

    assert (stored.flows()[0].ending, stored.flows()[0].pending_grant_sealed) == ("interrupted", None)


@pytest.mark.proves("R102")
def test_a_process_that_dies_before_the_grant_arrived_is_recorded_and_a_late_grant_still_counts(
    app: Flask, visitor: Visitor, stored: Stored, clock: MovedClock, monkeypatch: pytest.MonkeyPatch
):
    codes: list[str] = []

    def die_before_sending(_keap: object, code: str, _verifier: object) -> None:
        codes.append(code)
        die()

    with monkeypatch.context() as dying:
        dying.setattr(callback, "exchange_code", die_before_sending)
        visitor.connect()
    before = stored.flows()[0]
    clock.advance(seconds=91)
    with app.app_context():
        RefreshWorker(app).run(until_idle=True)
        RefreshWorker(app).run(until_idle=True)
    kinds = [event.kind for event in stored.events()]
    ending = stored.flows()[0].ending

    with app.app_context():  # it was only stopped, and goes on
        callback.complete_callback(before, AuthorizationResponse(None, codes[0], None, None, None))

    assert (kinds, ending) == (["connection.failed"], "interrupted")
    assert stored.flows()[0].ending == "connected"

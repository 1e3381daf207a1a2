"""Import and export by their pages: the password once more, nothing pasted comes back, and each line its result."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask, request

from keap_connect.access.admins import create_admin
from keap_connect.connect.import_files import MOST_BYTES
from keap_connect.jobs.runner import JobRunner
from keap_connect.models import Role
from keap_connect.refresh.worker import RefreshWorker
from tests.conftest import ADMIN_PASSWORD
from tests.flows.stored import Stored
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

pytestmark = on_sqlite
HEADER = "kind,access_token,refresh_token,external_id,label\n"


@pytest.fixture
def stored(app: Flask, sandbox: Sandbox) -> Stored:
    """Give a look into what the app has stored."""
    return Stored(app, sandbox)


def bring(admin: Visitor, **fields: str) -> requests.Response:
    """Fill in the form for one credential and send it."""
    admin.get("/import")
    return admin.press("/import", **{"kind": "pasted_token", "password": ADMIN_PASSWORD, **fields})


def send_file(admin: Visitor, content: str | bytes, **fields: str) -> requests.Response:
    """Choose a file and press a button."""
    admin.get("/import/file")
    files = {"file": ("accounts.csv", content, "text/csv")}
    data = {**admin.fields("/import/file"), "password": "", "unusual_key": "", **fields}
    admin.page = admin.session.post(f"{admin.base_url}/import/file", data=data, files=files)
    return admin.page


def do_jobs(app: Flask) -> None:
    with app.app_context():
        JobRunner(app).do_due()


def test_token_from_the_page_of_keap_becomes_an_account(
    admin: Visitor, stored: Stored, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
):
    access_token, refresh_token = sandbox.generate_token()

    bring(admin, access_token=f" {access_token}\n", refresh_token=refresh_token, label="Blue Door", external_id="c:1")

    assert "/accounts/1" in admin.page.url
    assert "Blue Door" in admin.text
    assert "Imported: an access token with its refresh token of Ann Lee." in admin.text
    assert "Its first refresh will show whether it stays connected." in admin.text
    assert stored.tokens(1) == (access_token, refresh_token)
    sandbox.advance(25 * 3600)
    bring(admin, access_token=access_token, refresh_token=refresh_token)
    assert "Stored. Keap refuses its access token" in admin.text
    assert "of Ann Lee. It was stored already." in admin.text
    assert not any(token in caplog.text for token in (access_token, refresh_token))


def test_a_pair_in_the_place_of_one_that_works_asks_once_more(admin: Visitor, stored: Stored, sandbox: Sandbox):
    stored.place()
    access_token, refresh_token = sandbox.generate_token()
    assert "Replace the working connection" not in admin.get("/import").text

    refused = bring(admin, access_token=access_token, refresh_token=refresh_token)
    assert refused.status_code == 422
    assert "Nothing was imported. Paste the token again." in admin.text
    assert "Replace the working connection" in admin.text
    pasted = {"access_token": access_token, "refresh_token": refresh_token, "password": ADMIN_PASSWORD}
    admin.press("/import", **pasted, kind="pasted_token", replace="1")

    assert stored.tokens(1) == (access_token, refresh_token)


def test_key_is_shown_as_one_that_does_not_expire(admin: Visitor, sandbox: Sandbox):
    bring(admin, kind="service_account_key", access_token=sandbox.make_key("service_account_key"))

    page = admin.page.text
    assert re.search(r"<dt>Expires</dt>\s*<dd><span class=\"muted\">never</span>", page)
    assert "Refresh now" not in page
    assert "<meter" not in page
    assert "<meter" not in admin.get("/accounts").text
    admin.get("/accounts/1/disconnect")
    admin.press("/accounts/1/disconnect", password=ADMIN_PASSWORD)
    assert "Its key is deleted here. Delete it in Keap's API settings, too." in admin.text


def test_token_of_a_day_says_that_its_end_is_the_latest(admin: Visitor, sandbox: Sandbox):
    bring(admin, access_token=sandbox.generate_token()[0])

    assert "at the latest" in admin.text
    assert "cannot be refreshed" in admin.text
    assert "Refresh now" not in admin.text


@pytest.mark.proves("R58")
@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"password": "not the password"}, (401, "That password is wrong. Nothing was changed.")),
        ({"password": ""}, (401, "That password is wrong. Nothing was changed.")),
        ({"kind": "oauth"}, (422, "Choose what you have.")),
        ({"kind": "personal_access_token"}, (422, "A refresh token does not belong to a Personal Access Token alone.")),
        ({"external_id": "a b"}, (422, "Use letters from A to Z")),
        ({"refresh_token": ""}, (422, "Keap does not accept this token or key")),
    ],
)
def test_what_is_refused_changes_nothing_and_is_not_shown_again(
    admin: Visitor, stored: Stored, caplog: pytest.LogCaptureFixture, fields: dict[str, str], answer: tuple[int, str]
):
    canary = {"access_token": "canary-access-token", "refresh_token": "canary-refresh-token", "label": "Kept label"}

    page = bring(admin, **canary | fields)

    assert page.status_code == answer[0]
    assert answer[1] in admin.text
    assert stored.rows() == []
    assert "canary-" not in page.text + caplog.text
    assert "Kept label" in page.text


def test_key_without_the_usual_prefix_needs_a_ticked_box(admin: Visitor, stored: Stored):
    key = {"kind": "personal_access_token", "access_token": "another-key-of-keap", "password": ADMIN_PASSWORD}

    assert bring(admin, **key).status_code == 422
    assert "usually begin with KeapAK" in admin.text
    admin.press("/import", **key, unusual_key="1")

    assert "Keap does not accept this token or key" in admin.text
    assert 'value="1" checked' in admin.page.text
    assert send_file(admin, "kind,access_token\npersonal_access_token,another-key-of-keap\n", choice="check").ok
    assert "Tick the box for unusual keys" in admin.text


def test_pair_whose_access_token_has_expired_is_stored_with_words_and_shows_its_result(
    app: Flask, admin: Visitor, stored: Stored, sandbox: Sandbox
):
    pairs = [sandbox.generate_token(tenant=tenant) for tenant in ("ab123", "cd456")]
    sandbox.advance(25 * 3600)

    bring(admin, access_token=pairs[0][0], refresh_token=pairs[0][1])
    assert "its first refresh will show whether it works" in admin.text
    assert "Ask Keap again" not in admin.text
    send_file(admin, f"{HEADER}oauth,{pairs[1][0]},{pairs[1][1]},,Dentist\n", password=ADMIN_PASSWORD)
    do_jobs(app)
    admin.get("/jobs/1")
    assert "Stored. Keap refuses its access token" in admin.text
    assert "Dentist" in admin.text
    sandbox.fault("refused_although_valid", "refresh")
    stored.set(1, next_refresh_at=datetime.now(UTC) + timedelta(hours=1))
    for _ in range(2):
        stored.set(2, next_refresh_at=datetime.now(UTC), blocked_until=None)
        with app.app_context():
            RefreshWorker(app).run(until_idle=True)
    sandbox.clear_faults()
    admin.get("/jobs/1")
    assert "first refresh will show" not in admin.text
    assert "Keap refused its refresh token" in admin.text
    assert 'href="/accounts/2/erase"' in admin.get("/accounts/2").text
    stored.set(1, next_refresh_at=datetime.now(UTC))
    stored.set(2, refused_at=None, refusals=0, next_refresh_at=datetime.now(UTC))
    with app.app_context():
        for _ in pairs:
            RefreshWorker(app).run(until_idle=True)
    admin.get("/jobs/1")
    assert all(shown in admin.text for shown in ("Bright Dental", "Ann Lee", "New account"))
    assert "first refresh will show" not in admin.text


def test_file_is_checked_then_imported_and_shows_no_token(app: Flask, admin: Visitor, stored: Stored, sandbox: Sandbox):
    keys = [sandbox.make_key(tenant=tenant) for tenant in ("ab123", "cd456")]
    content = f"{HEADER}personal_access_token,{keys[0]},,c:1,Its  label\npersonal_access_token,{keys[1]},,,\n"

    page = send_file(admin, content + "personal_access_token,canary-x,,,\n", choice="check", unusual_key="1")
    assert urlsplit(page.url).path == "/jobs/1"
    assert "0 of 3 lines done. The rest takes 1 minute or more." in admin.text
    assert "No worker is running, so this waits." in admin.text
    do_jobs(app)
    page = admin.get("/jobs/1")
    assert "2 lines can be imported, 1 refused." in admin.text
    assert "The rest takes" not in admin.text
    assert all(shown in admin.text for shown in ("Its label", "c:1", "New account", "Acme Plumbing", "access_token"))
    assert not re.search("KeapAK|canary", page.text)
    assert stored.rows() == []
    file = admin.get("/jobs/1/items.csv?only=refused")
    assert [line[:23] for line in file.text.splitlines()[1:]] == ["4,refused,access_token,"]

    assert send_file(admin, content, password="not the password").status_code == 401
    send_file(admin, content, password=ADMIN_PASSWORD)
    do_jobs(app)
    admin.get("/jobs/2")
    assert "2 lines imported." in admin.text
    assert [stored.tokens(one)[0] for one in (1, 2)] == keys
    assert 'href="/accounts/1"' in admin.page.text
    assert "Import of 2 lines finished" in admin.get("/import/file").text.replace("</a>\n     ", "")


def test_running_job_can_be_stopped_and_a_viewer_sees_it_without_its_button(
    app: Flask, admin: Visitor, new_visitor: Callable[[], Visitor], stored: Stored, sandbox: Sandbox
):
    send_file(admin, f"{HEADER}personal_access_token,{sandbox.make_key()},,,\n", password=ADMIN_PASSWORD)
    with app.app_context():
        create_admin("viewer@example.com", ADMIN_PASSWORD, role=Role.VIEWER)
    viewer = new_visitor()
    viewer.sign_in("viewer@example.com", ADMIN_PASSWORD)
    assert "0 of 1 line done" in viewer.get("/jobs/1").text
    assert "Stop" not in viewer.text

    admin.get("/jobs/1")
    admin.press("/jobs/1/stop")
    do_jobs(app)

    assert "0 lines imported, 1 not done." in " ".join(admin.text.split())
    assert (stored.rows(), admin.get("/jobs/2").status_code) == ([], 404)


@pytest.mark.proves("R69")
def test_only_the_page_for_files_takes_more_than_the_others(admin: Visitor):
    largest = (b"x" * 1023 + b"\n") * (MOST_BYTES // 1024)  # of few lines: each costs time

    assert "first line must name the columns" in send_file(admin, largest, choice="check").text
    assert "larger than 4 MB" in send_file(admin, b"x" * (MOST_BYTES + 1), choice="check").text
    assert send_file(admin, b"x" * (MOST_BYTES + 100_000)).status_code == 413
    admin.get("/import")
    assert admin.press("/import", access_token="x" * 100_000).status_code == 413


def test_file_with_tokens_is_never_written_to_the_disk(app: Flask):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="accounts.csv"\r\n\r\n'
    sent = {"data": head + b"x" * 1_000_000 + b"\r\n--x--\r\n", "content_type": "multipart/form-data; boundary=x"}

    with app.test_request_context("/import/file", method="POST", **sent):
        request.max_content_length = MOST_BYTES
        assert isinstance(request.files["file"].stream, BytesIO)


@pytest.mark.proves("R58")
def test_export_asks_for_the_password_and_comes_as_a_file(admin: Visitor, stored: Stored):
    stored.place()
    admin.get("/export")
    refused = admin.press("/export", password="not the password")
    assert (refused.status_code, refused.headers["Content-Type"]) == (401, "text/html; charset=utf-8")

    file = admin.press("/export", password=ADMIN_PASSWORD)

    assert file.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert file.headers["Cache-Control"] == "no-store"
    assert re.fullmatch(
        r'attachment; filename="keap-accounts-\d{4}-\d\d-\d\d.csv"', file.headers["Content-Disposition"]
    )
    assert file.text.splitlines()[1].startswith("1,active,ab123,Acme Plumbing,Ann Lee,")
    assert not any(token in file.text for token in stored.tokens(1) if token)


def test_guessing_the_password_is_throttled_here_too(admin: Visitor):
    for _ in range(11):
        admin.get("/export")
        answer = admin.press("/export", password="not the password")

    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0

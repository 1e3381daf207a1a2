"""The admin's pages: finding accounts, the most urgent first, and looking at one without its secrets."""

import html
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from keap_connect.accounts.credentials import new_account, open_access_token, open_refresh_token, replace_credential
from keap_connect.accounts.directory import PAGE_SIZE, get_account
from keap_connect.clock import utc_now
from keap_connect.connect.reconnect_links import MOST_LISTED, make_link
from keap_connect.database import write_transaction
from keap_connect.events.history import EventKind, record
from keap_connect.keap.token_response import TokenResponse
from keap_connect.models import Account
from keap_connect.web import rendering
from tests.conftest import ADMIN_EMAIL
from tests.support.engines import on_postgresql, on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

NOW = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
ACCESS_TOKEN, REFRESH_TOKEN = "canary-access-token-of-4d9f", "canary-refresh-token-of-83b1"


@pytest.fixture
def add(app: Flask) -> Callable[..., int]:
    """Give the function that stores an account with made-up tokens; `facts` set columns of its row."""

    def store(**facts: object) -> int:
        granted = TokenResponse(
            ACCESS_TOKEN, REFRESH_TOKEN, utc_now() + timedelta(days=1), "full|ab123.infusionsoft.com"
        )
        with app.app_context(), write_transaction() as session:
            account = new_account(session, None, None)
            replace_credential(account, granted)
            for name, value in {"keap_user_id": "4236128", "tenant_id": f"t{account.id}", **facts}.items():
                setattr(account, name, value)
        return account.id

    return store


@pytest.fixture
def account_id(app: Flask, new_visitor: Callable[[], Visitor]) -> int:
    """Give an account that a customer connected, with live tokens."""
    new_visitor().connect()
    return 1


def listed(admin: Visitor, **query: object) -> list[str]:
    """Return the titles on the dashboard, in their order."""
    page = admin.get("/accounts", params=query).text
    return [html.unescape(title) for title in re.findall(r'<a href="/accounts/\d+">(.*?)</a>', page)]


def tabs(admin: Visitor) -> dict[str, int]:
    """Return the words and numbers of the filter."""
    return {word: int(number) for word, number in re.findall(r">([A-Z][a-z ]+) <b>(\d+)</b>", admin.page.text)}


def notices(admin: Visitor) -> list[str]:
    """Return the sentences that answer what was pressed."""
    found = re.findall(r'<div class="notice[^"]*" role="(?:status|alert)">.*?<p>(.*?)</p>', admin.page.text, re.DOTALL)
    return [html.unescape(sentence) for sentence in found]


# The list


@on_sqlite
def test_an_empty_dashboard_says_how_to_begin(admin: Visitor):
    admin.get("/accounts")

    assert "No account is connected yet" in admin.text
    assert f'value="{admin.base_url}/"' in admin.page.text
    assert 'href="/connect"' in admin.page.text
    assert listed(admin) == []


@on_sqlite
def test_one_account_is_listed_with_what_an_admin_wants_to_know(admin: Visitor, account_id: int):
    admin.get("/accounts")

    facts = ("Active", "Acme Plumbing", "ab123", "Ann Lee", "ann.lee@example.com", "in 24 h", "45 d left")
    assert [fact for fact in facts if fact not in admin.text] == []
    assert "1 account" in admin.text
    for whole in ("Acme Plumbing, ab123, No. 1", "ann.lee@example.com"):  # where the list cuts it
        assert f' title="{whole}">' in admin.page.text


@pytest.fixture
def searchable(add: Callable[..., int]) -> None:
    """Let there be accounts that are told apart by a part of one word."""
    add(business_name="Acme Plumbing", tenant_id="ab123", person_name="Ann Lee", person_email="ann@acme.example")
    add(business_name="Bright 100% Dental", tenant_id="cd456", person_name="Ben O'Neil")
    add(business_name="Under_score \\ Sons", tenant_id="ef789", label='The "best" one', external_id="crm:77")
    add(business_name="Ärzte Öl & Söhne", tenant_id="gh012", person_name="Zoë Ångström")


SEARCHES = {
    "": {"Acme Plumbing", "Bright 100% Dental", 'The "best" one', "Ärzte Öl & Söhne"},
    "   ": {"Acme Plumbing", "Bright 100% Dental", 'The "best" one', "Ärzte Öl & Söhne"},
    "plumb": {"Acme Plumbing"},
    "ACME": {"Acme Plumbing"},
    "umbi ann": set(),
    "ann ab12": {"Acme Plumbing"},
    "ann cd456": set(),
    "@acme.ex": {"Acme Plumbing"},
    "crm:77": {'The "best" one'},
    "%": set(),
    "100%": {"Bright 100% Dental"},
    "1%0": set(),
    "_": set(),
    "under_sc": {'The "best" one'},
    "o'neil": {"Bright 100% Dental"},
    "' OR 1=1 --": set(),
    '"best"': {'The "best" one'},
    "arzte": {"Ärzte Öl & Söhne"},
    "ZOË ångström": {"Ärzte Öl & Söhne"},
    "öl &": {"Ärzte Öl & Söhne"},
    ACCESS_TOKEN: set(),
    "4236128": set(),
}


@pytest.mark.usefixtures("searchable")
def test_search_finds_beginnings_of_words_alike_on_both_databases(admin: Visitor):
    assert {words: set(listed(admin, q=words)) for words in SEARCHES} == SEARCHES


@on_sqlite
@pytest.mark.usefixtures("searchable")
def test_a_search_without_a_hit_says_what_was_looked_for(admin: Visitor):
    assert listed(admin, q="no <such> thing") == []

    assert "No account matches “no <such> thing”." in admin.text
    assert 'value="no &lt;such&gt; thing"' in admin.page.text
    assert 'href="/accounts"' in admin.page.text


@pytest.fixture
def urgent(add: Callable[..., int]) -> None:
    """Let there be an account or two in each state, stored in no helpful order."""
    now = utc_now()
    add(business_name="Active, late", access_token_expires_at=now + timedelta(hours=20))
    add(business_name="Gone", disconnected_at=now)
    add(business_name="Risky, late", failures=3, access_token_expires_at=now + timedelta(hours=9))
    add(business_name="Lost", refused_at=now, failure_reason="Invalid Refresh Token")
    add(business_name="Active, soon", access_token_expires_at=now + timedelta(hours=2))
    an_hour_ago = now - timedelta(hours=1)
    add(business_name="Risky, soon", access_token_expires_at=an_hour_ago, next_refresh_at=an_hour_ago)
    add(business_name="Aged out", refresh_token_issued_at=now - timedelta(days=46), access_token_expires_at=now)


STATES = {
    "reconnect_required": ["Lost", "Aged out"],
    "at_risk": ["Risky, late", "Risky, soon"],
    "active": ["Active, late", "Active, soon"],
    "disconnected": ["Gone"],
}


@pytest.mark.usefixtures("urgent")
def test_the_most_urgent_come_first_and_the_oldest_among_them(admin: Visitor):
    assert listed(admin) == [title for titles in STATES.values() for title in titles]


@on_postgresql
@pytest.mark.usefixtures("urgent")
def test_the_filter_shows_one_state_and_counts_all_of_them(admin: Visitor):
    assert {state: listed(admin, state=state) for state in STATES} == STATES
    assert listed(admin, state="active", q="soon") == ["Active, soon"]
    assert admin.get("/accounts", params={"state": "no such state"}).status_code == 404

    numbers = {"All": 7, "Active": 2, "At risk": 2, "Reconnect required": 2, "Disconnected": 1}
    for query in ({}, {"state": "at_risk"}, {"q": "soon"}):
        listed(admin, **query)
        assert tabs(admin) == numbers
    assert "2 accounts have to be reconnected, 2 are at risk." in admin.text


@on_sqlite
@pytest.mark.usefixtures("urgent")
def test_a_filter_without_a_hit_and_a_calm_list_have_words_of_their_own(admin: Visitor, add: Callable[..., int]):
    listed(admin, state="disconnected", q="soon")
    assert "No account matches “soon” in this state." in admin.text


@on_sqlite
def test_a_list_in_which_all_is_well_says_so(admin: Visitor, add: Callable[..., int]):
    add(business_name="Acme")

    listed(admin)
    assert "No account needs attention." in admin.text

    listed(admin, state="at_risk")
    assert "No account is in this state." in admin.text


@on_sqlite
def test_of_many_open_reconnect_links_the_page_lists_the_newest(app: Flask, admin: Visitor, add: Callable[..., int]):
    account_id = add(business_name="Acme")
    path = f"/accounts/{account_id}"
    with app.app_context():
        for number in range(MOST_LISTED + 2):
            make_link(account_id, f"job {number}")

    page = admin.get(path).text

    assert re.findall(r"by (job \d+), ends", page) == [f"job {number}" for number in range(MOST_LISTED + 1, 1, -1)]
    assert f"These are the newest {MOST_LISTED}." in page
    admin.press(f"{path}/reconnect-links/{MOST_LISTED + 2}/revoke")
    assert "by job 1, ends" in admin.get(path).text


@on_sqlite
def test_many_accounts_come_in_pages_that_lead_to_each_other(admin: Visitor, add: Callable[..., int]):
    for number in range(2 * PAGE_SIZE + 3):
        add(business_name=f"Acme {number:03}", access_token_expires_at=utc_now() + timedelta(days=2, minutes=number))
    add(business_name="Not found")

    def links() -> dict[str, str]:
        found = re.findall(r'rel="(prev|next)" href="([^"]+)"', admin.page.text)
        return {name: html.unescape(path) for name, path in found}

    seen = listed(admin, q="acme", state="active")
    assert set(links()) == {"next"}
    while "next" in links():
        admin.get(links()["next"])
        seen += re.findall(r'<a href="/accounts/\d+">(.*?)</a>', admin.page.text)

    assert seen == [f"Acme {number:03}" for number in range(2 * PAGE_SIZE + 3)]
    assert "q=acme" in links()["prev"]
    assert "state=active" in links()["prev"]
    for nonsense in ("0", "-7", "x", "", "1~99999999999999~"):
        assert len(listed(admin, q="acme", after=nonsense)) == PAGE_SIZE
        assert len(listed(admin, sort="expires", before=nonsense)) == PAGE_SIZE
    assert f"{2 * PAGE_SIZE + 4} accounts" in admin.text


@on_sqlite
def test_an_account_that_keap_has_told_nothing_about_has_a_name_all_the_same(admin: Visitor, add: Callable[..., int]):
    pending = add(tenant_id=None, keap_user_id=None)

    assert listed(admin) == ["New Keap account"]
    assert "unknown" in admin.text
    admin.get(f"/accounts/{pending}")
    assert "Ask Keap again" in admin.text
    refused = add(tenant_id=None, keap_user_id=None, refused_at=NOW)
    assert "Ask Keap again" not in admin.get(f"/accounts/{refused}").text


# One account


@on_sqlite
def test_no_page_shows_a_whole_token(admin: Visitor, add: Callable[..., int]):
    account_id = add(business_name="Acme")
    paths = ("/accounts", f"/accounts/{account_id}", f"/accounts/{account_id}/disconnect", f"/reconnect/{account_id}")

    pages = {path: admin.get(path).text for path in paths}

    assert not any("canary" in page for page in pages.values())
    for path, page in pages.items():
        assert ("…4d9f" in page, "…83b1" in page) == (path == f"/accounts/{account_id}",) * 2, path


@on_sqlite
@pytest.mark.parametrize(("token", "shown"), [("s" * 16, "…ssss"), ("short-token-15c", None)])
def test_a_short_token_is_not_shown_even_in_part(
    app: Flask, admin: Visitor, add: Callable[..., int], token: str, shown: str | None
):
    account_id = add()
    with app.app_context(), write_transaction() as session:
        granted = TokenResponse(token, token, utc_now() + timedelta(days=1))
        replace_credential(session.get_one(Account, account_id), granted)

    page = admin.get(f"/accounts/{account_id}").text

    assert token not in page
    assert (shown or "none") in page
    assert shown or token[-4:] not in page


@on_sqlite
def test_an_account_page_tells_the_facts_and_the_next_step(admin: Visitor, account_id: int):
    admin.get(f"/accounts/{account_id}")

    facts = ("Acme Plumbing", "ab123", "Ann Lee", "ann.lee@example.com", "OAuth", "full|ab123.infusionsoft.com")
    for fact in (
        *facts,
        "Nothing to do: the connection is kept alive automatically.",
        "Connected by Ann Lee.",
        "customer",
    ):
        assert fact in admin.text


# What a page must say of each kind of event; every kind stands here.
HISTORY: dict[EventKind, tuple[dict[str, str], str]] = {
    EventKind.CONNECTED: ({"person": "Ann"}, "Connected by Ann."),
    EventKind.RECONNECTED: ({"person": "Ann"}, "Reconnected by Ann: new tokens, same account."),
    EventKind.PERSON_CHANGED: ({"person": "Ben", "before": "Ann"}, "Reconnected by Ben, who replaces Ann."),
    EventKind.OTHER_TENANT_CHOSEN: (
        {"tenant_id": "cd456"},
        "A reconnect ended at another Keap account, cd456. Nothing changed here.",
    ),
    EventKind.OTHER_PERSON_UPDATED: (
        {"person": "Ben"},
        "A reconnect was authorized by Ben, who has an account of their own; that one was updated instead.",
    ),
    EventKind.DETAILS_FILLED_IN: ({"tenant_id": "ab123", "person": "Ann"}, "Keap returned the details: ab123, Ann."),
    EventKind.MOVED_HERE: (
        {"from_account": 7},
        "A grant of the same person, stored as account 7 before Keap said who it was, was moved here. Account 7 no "
        "longer exists.",
    ),
    EventKind.NEWER_STAYED: (
        {"from_account": 7},
        "An older grant of the same person, stored as account 7 before Keap said who it was, was dropped: the newer "
        "one stays. Account 7 no longer exists.",
    ),
    EventKind.GRANT_DROPPED: (
        {"from_account": 7},
        "A grant of the same person, stored as account 7, was dropped: this account was disconnected after it came. "
        "Account 7 no longer exists.",
    ),
    EventKind.MOVED_AWAY: (
        {"to_account": 8},
        "Keap said who it was: account 8 is of the same person. This account no longer exists, and API keys for it do "
        "not open the other one.",
    ),
    EventKind.IMPORT_DROPPED: (
        {"from_account": 7},
        "An imported pair of the same person, stored as account 7, was dropped: this connection works, and the import "
        "did not say to replace it. Account 7 no longer exists.",
    ),
    EventKind.SCOPE_CHANGED: ({"scope": "read"}, "Keap granted the scope read instead of full."),
    EventKind.REFRESHED: ({}, "Refreshed: new tokens are stored."),
    EventKind.REFRESH_FAILED: ({"reason": "Keap is busy."}, "A refresh failed; the tokens are kept. Keap is busy."),
    EventKind.FIRST_REFRESH_REFUSED: (
        {"reason": "Keap said no."},
        "Keap refused the imported refresh token; it is tried again before it counts. Keap said no.",
    ),
    EventKind.REFRESH_REFUSED_ONCE: (
        {"reason": "Bad token."},
        "Keap refused the refresh token; it is tried again before it counts. Bad token.",
    ),
    EventKind.REFRESH_REFUSED_LATE: (
        {"sent": 4, "stored": 5, "reason": "Bad token."},
        "Keap refused refresh token number 4, but number 5 was stored by then. Bad token.",
    ),
    EventKind.REFRESH_REFUSED: ({"reason": "Bad token."}, "Keap refused the refresh token for good. Bad token."),
    EventKind.ANSWER_LOST: (
        {"when": "01:30 UTC"},
        "Keap refused the refresh token for good. Our own last attempt with it was at 01:30 UTC, "
        "and no usable answer came.",
    ),
    EventKind.TOKEN_REJECTED: ({}, "A job reported that Keap refused the access token."),
    EventKind.CREDENTIAL_REJECTED: ({}, "A job reported that Keap refused the token or key."),
    EventKind.IMPORTED: (
        {"credential": "a Personal Access Token", "person": "Jane"},
        "Imported: a Personal Access Token of Jane.",
    ),
    EventKind.IMPORTED_AGAIN: (
        {"credential": "an access token and a refresh token", "person": "Jane"},
        "Imported again: an access token and a refresh token of Jane replaced what was stored.",
    ),
    EventKind.IMPORTED_SAME: (
        {"credential": "an access token", "person": "Jane"},
        "Imported again: an access token of Jane. It was stored already.",
    ),
    EventKind.FILE_IMPORTED: ({"count": 3}, "The import of a file started; lines in it: 3."),
    EventKind.JOB_STOPPED: ({"job": 4, "count": 3}, "Job 4 was stopped; items that were not done: 3."),
    EventKind.EXPORTED: ({"count": 3}, "All accounts were exported, without tokens: 3."),
    EventKind.SELECTION_EXPORTED: ({"count": 3}, "Selected accounts were exported, without tokens: 3."),
    EventKind.LINKS_DOWNLOADED: (
        {"job": 4, "count": 3},
        "The links of job 4 that still worked were downloaded; it made 3.",
    ),
    EventKind.BULK_STARTED: (
        {"what": "withdraw", "of": "invitations", "count": 3, "job": 4},
        "A job for many invitations started: withdraw. Job 4, invitations: 3.",
    ),
    EventKind.CLIENT_CHECKED: (
        {"reason": "Keap knows the client."},
        "Client id and secret were checked at Keap. Keap knows the client.",
    ),
    EventKind.OTHER_TENANT_ANSWERED: (
        {"tenant_id": "zz999"},
        "Keap answered a refresh with a token of another account, zz999; it was not stored.",
    ),
    EventKind.CONNECTION_FAILED: ({"reason": "Denied."}, "A person could not connect. Denied."),
    EventKind.RECONNECT_FAILED: ({"reason": "Denied."}, "A reconnect did not succeed. Denied."),
    EventKind.RECONNECT_MAIL_ASKED_FOR: ({}, "A mail with a reconnect link was asked for."),
    EventKind.RECONNECT_LINK_MADE: (
        {"until": "2026-12-02 01:30 UTC"},
        "A reconnect link was made; it works once, until 2026-12-02 01:30 UTC.",
    ),
    EventKind.RECONNECT_LINK_USED: ({"made_by": "a@example.com"}, "The reconnect link made by a@example.com was used."),
    EventKind.RECONNECT_LINK_REVOKED: (
        {"made_by": "a@example.com"},
        "The reconnect link made by a@example.com was revoked.",
    ),
    EventKind.TOKEN_REVEALED: ({}, "The access token was shown."),
    EventKind.LABEL_CHANGED: (
        {"before": "none", "after": "“Dentist”"},
        "The label was changed from none to “Dentist”.",
    ),
    EventKind.EXTERNAL_ID_CHANGED: (
        {"before": "“crm:7”", "after": "none"},
        "The external id was changed from “crm:7” to none.",
    ),
    EventKind.DISCONNECTED: ({}, "Disconnected: the tokens are deleted."),
    EventKind.ERASED: ({}, "Erased: the account, its tokens, its names and its history are gone."),
    EventKind.REFRESHING_RESUMED: (
        {"since": "2026-09-30 08:00 UTC"},
        "Refreshing was resumed; it was paused since 2026-09-30 08:00 UTC.",
    ),
    EventKind.EMERGENCY_STOPPED: (
        {"keys": 2},
        "Everything was stopped: all sign-ins, passwords, links and API keys (2) ended, and refreshing is paused.",
    ),
    EventKind.ADMIN_CREATED: ({"email": "a@example.com"}, "Admin a@example.com was created."),
    EventKind.ADMIN_INVITED: (
        {"email": "a@example.com", "role": "viewer", "until": "2026-11-25 00:00 UTC"},
        "a@example.com was invited with the role viewer, until 2026-11-25 00:00 UTC.",
    ),
    EventKind.ADMIN_JOINED: (
        {"email": "a@example.com", "role": "viewer", "invited_by": "b@example.com"},
        "a@example.com used the invitation by b@example.com and has the role viewer.",
    ),
    EventKind.ADMIN_INVITATION_WITHDRAWN: (
        {"email": "a@example.com"},
        "The invitation of a@example.com was withdrawn.",
    ),
    EventKind.ADMIN_SIGNED_IN: ({"email": "a@example.com"}, "Admin a@example.com signed in."),
    EventKind.ADMIN_SIGN_IN_REFUSED: ({"email": "a@example.com"}, "A sign-in of a@example.com was refused."),
    EventKind.ADMIN_SIGNED_OUT: ({"email": "a@example.com"}, "Admin a@example.com signed out."),
    EventKind.CUSTOMER_SIGNED_OUT: ({}, "The customer signed out."),
    EventKind.HISTORY_PRUNED: (
        {"count": 5, "until": "2026-11-25 00:00 UTC"},
        "Events from before 2026-11-25 00:00 UTC were deleted from the history: 5.",
    ),
    EventKind.MAILS_CHOSEN: (
        {"email": "a@example.com", "mails": "alarms"},
        "The mails that a@example.com gets were chosen: alarms.",
    ),
    EventKind.API_KEY_ISSUED: (
        {"key_id": 1, "name": "sync", "scopes": "tokens:read"},
        "API key 1 (sync) was issued for tokens:read.",
    ),
    EventKind.API_KEY_ROTATED: (
        {"key_id": 2, "name": "sync", "old_id": 1, "until": "2026-12-01 09:00 UTC"},
        "API key 2 (sync) takes the place of 1, which ends 2026-12-01 09:00 UTC.",
    ),
    EventKind.API_KEY_REVOKED: ({"key_id": 1, "name": "sync"}, "API key 1 (sync) was revoked."),
    EventKind.ADMIN_ROLE_CHANGED: ({"email": "a@example.com", "role": "viewer"}, "a@example.com got the role viewer."),
    EventKind.ADMIN_REMOVED: ({"email": "a@example.com"}, "a@example.com is no longer an admin."),
    EventKind.PASSWORD_REFUSED: ({}, "A wrong password was given before a dangerous action."),
    EventKind.PASSWORD_CHANGED: ({"email": "a@example.com"}, "The password of a@example.com was changed."),
    EventKind.NEW_PASSWORD_CODE_ISSUED: (
        {"email": "a@example.com"},
        "A link to set a new password was made for a@example.com.",
    ),
    EventKind.SIGN_IN_CODE_ISSUED: (
        {"email": "a@example.com"},
        "A code to sign in from a new browser was made for a@example.com.",
    ),
    EventKind.SIGN_INS_ENDED: ({"email": "a@example.com"}, "Sign-ins of a@example.com were ended."),
    EventKind.SECOND_FACTOR_ON: (
        {"email": "a@example.com"},
        "Two-factor authentication of a@example.com was turned on.",
    ),
    EventKind.SECOND_FACTOR_OFF: (
        {"email": "a@example.com"},
        "Two-factor authentication of a@example.com was turned off.",
    ),
    EventKind.SECOND_FACTOR_REFUSED: (
        {"email": "a@example.com"},
        "A wrong two-factor code was given for a@example.com.",
    ),
    EventKind.RECOVERY_CODE_USED: ({"email": "a@example.com"}, "A recovery code of a@example.com was used up."),
    EventKind.RECOVERY_CODES_MADE: ({"email": "a@example.com"}, "New recovery codes were made for a@example.com."),
    EventKind.API_KEY_ISSUED: (
        {"key_id": 3, "name": "job", "scopes": "tokens:read"},
        "API key 3 (job) was issued for tokens:read.",
    ),
    EventKind.API_KEY_ROTATED: (
        {"key_id": 2, "name": "sync", "old_id": 1, "until": "2026-12-01 09:00 UTC"},
        "API key 2 (sync) takes the place of 1, which ends 2026-12-01 09:00 UTC.",
    ),
    EventKind.API_KEY_REVOKED: ({"key_id": 3, "name": "job"}, "API key 3 (job) was revoked."),
    EventKind.AT_RISK: ({"why": "The last 3 refreshes failed."}, "At risk. The last 3 refreshes failed."),
    EventKind.RECOVERED: ({}, "The connection works again."),
    EventKind.RECONNECT_REQUIRED: ({"why": "It aged out."}, "A person must authorize again. It aged out."),
    EventKind.REFRESHING_PAUSED: ({"reason": "Keap refused many."}, "Refreshing is paused. Keap refused many."),
    EventKind.CLIENT_ACCEPTED: ({}, "Keap accepts the client again, so refreshing continues."),
    EventKind.WEBHOOK_ADDED: ({"webhook": 1, "host": "example.com"}, "Webhook 1 to example.com was added."),
    EventKind.WEBHOOK_CHANGED: (
        {"webhook": 1, "host": "example.com", "what": "name"},
        "Webhook 1 to example.com was changed: name.",
    ),
    EventKind.WEBHOOK_REMOVED: ({"webhook": 1, "host": "example.com"}, "Webhook 1 to example.com was removed."),
    EventKind.WEBHOOK_SWITCHED_OFF: (
        {"webhook": 1, "host": "example.com", "reason": "It answered 410 Gone."},
        "Webhook 1 to example.com was switched off. It answered 410 Gone.",
    ),
    EventKind.INVITATION_MADE: (
        {"invitation": 4, "until": "2026-12-01 09:00 UTC"},
        "Invitation 4 was made; it works once, until 2026-12-01 09:00 UTC.",
    ),
    EventKind.INVITATION_RESENT: (
        {"invitation": 4, "until": "2026-12-01 09:00 UTC"},
        "Invitation 4 got a new link, which works until 2026-12-01 09:00 UTC; the one before no longer works.",
    ),
    EventKind.INVITATION_USED: ({"invitation": 4}, "Invitation 4 was used."),
    EventKind.INVITATION_FITS: ({"invitation": 3}, "Invitation 3 is for this account, which was connected already."),
    EventKind.EXTERNAL_ID_NOT_SET: (
        {"invitation": 4, "external_id": "acme", "holder": "account 2 has it"},
        "Invitation 4 gives the external id acme, which was not set: account 2 has it.",
    ),
    EventKind.INVITATION_WAITING: (
        {"invitation": 4, "tenant_id": "cd456", "until": "2026-12-01 09:00 UTC"},
        "Somebody of Keap account cd456 used invitation 4. Confirm that this is whom you invited, or decline, until "
        "2026-12-01 09:00 UTC.",
    ),
    EventKind.INVITATION_CONFIRMED: ({"invitation": 4}, "The use of invitation 4 was confirmed."),
    EventKind.INVITATION_DECLINED: (
        {"invitation": 4, "grant": "Their grant is deleted.", "until": "2026-12-01 09:00 UTC"},
        "The use of invitation 4 was declined. Their grant is deleted. Its link works until 2026-12-01 09:00 UTC.",
    ),
    EventKind.INVITATION_EXPIRED: (
        {"invitation": 4, "why": "nobody used it"},
        "Invitation 4 has expired: nobody used it.",
    ),
    EventKind.INVITATION_WITHDRAWN: ({"invitation": 4}, "Invitation 4 was withdrawn."),
}


@on_sqlite
def test_the_history_tells_every_kind_of_event_in_a_sentence_newest_first(
    app: Flask, admin: Visitor, add: Callable[..., int]
):
    assert set(HISTORY) == set(EventKind)
    account_id, other_id = add(), add()
    with app.app_context(), write_transaction() as session:
        for kind, (details, _sentence) in HISTORY.items():
            record(session, kind, account_id, ADMIN_EMAIL, **details)
        record(session, EventKind.CONNECTED, other_id, "customer", person="Somebody else")

    page = admin.get(f"/accounts/{account_id}").text
    page += admin.get(re.search(r'rel="next" href="([^"#]+)', page)[1]).text
    told = re.findall(r"<li><time.*?</time>\s*<div>(.*?) <small>admin@example.com</small></div></li>", page, re.DOTALL)

    assert [html.unescape(sentence) for sentence in told] == [sentence for _, sentence in reversed(HISTORY.values())]
    assert "Somebody else" not in page


@on_sqlite
def test_a_reason_with_braces_is_told_as_it_is(app: Flask, admin: Visitor, add: Callable[..., int]):
    account_id = add()
    with app.app_context(), write_transaction() as session:
        record(session, EventKind.REFRESH_FAILED, account_id, "system", reason="{person} {0.__class__} {}")

    assert "{person} {0.__class__} {}" in admin.get(f"/accounts/{account_id}").text


# Refresh now

OUTCOMES = {
    None: "Refreshed: new tokens are stored.",
    "html_503": "Not refreshed; the tokens are kept. Keap answered 503 (an HTML page).",
    "json_500": "Not refreshed; the tokens are kept. Keap answered 500 (server_error: An error occurred).",
    "html_403": "Not refreshed; the tokens are kept. Keap answered 403 (an HTML page).",
    "rate_limited_quota_429": "Not refreshed; the tokens are kept. Keap asked us to slow down (429).",
    "ok_html": "Not refreshed; the tokens are kept. Keap answered 200 without a usable token.",
    "other_tenant_in_scope": "Not refreshed; the tokens are kept. Keap answered with a token of another account",
    "refused_although_valid": "Not refreshed; the tokens are kept. Keap answered 400 (invalid_request: ",
    "invalid_client_401": "Keap refused this app's client id or secret; the account itself is fine. Keap answered 401",
}


@on_sqlite
@pytest.mark.parametrize("fault", OUTCOMES, ids=str)
def test_refresh_now_says_plainly_how_it_went(
    app: Flask, admin: Visitor, account_id: int, sandbox: Sandbox, fault: str | None
):
    before = tokens(app, account_id)
    if fault:
        sandbox.fault(fault)

    admin.get(f"/accounts/{account_id}")
    admin.press(f"/accounts/{account_id}/refresh")

    assert admin.page.url.endswith(f"/accounts/{account_id}")
    told = [sentence for sentence in notices(admin) if "Refreshing has been paused since" not in sentence]
    assert [sentence.startswith(OUTCOMES[fault]) for sentence in told] == [True], notices(admin)
    assert len(notices(admin)) == (2 if fault == "invalid_client_401" else 1), "the alarm is on the page, too"
    assert (tokens(app, account_id) == before) == (fault is not None)
    admin.get(f"/accounts/{account_id}")
    assert not set(told) & set(notices(admin)), "said twice"
    assert ("It is tried again in a minute" in admin.text) == (fault == "refused_although_valid")


@on_sqlite
@pytest.mark.parametrize(
    ("facts", "is_offered"),
    [
        ({}, True),
        ({"failures": 3}, True),
        ({"refused_at": NOW}, False),
        ({"refresh_token_issued_at": NOW - timedelta(days=46)}, False),
        ({"disconnected_at": NOW}, False),
    ],
)
def test_a_refresh_is_offered_only_where_it_can_succeed(
    admin: Visitor, add: Callable[..., int], facts: dict[str, object], is_offered: bool
):
    account_id = add(**facts)

    assert ("Refresh now" in admin.get(f"/accounts/{account_id}").text) == is_offered


@on_sqlite
def test_a_grant_that_is_dead_asks_for_no_key(admin: Visitor, add: Callable[..., int]):
    account_id = add(refused_at=NOW, access_token_sealed=b"not ours", refresh_token_sealed=b"not ours")

    page = admin.get(f"/accounts/{account_id}").text

    assert "A person must authorize again" in page
    assert "TOKEN_KEYS" not in page


def tokens(app: Flask, account_id: int) -> tuple[str | None, str | None]:
    """Return both tokens in clear."""
    with app.app_context():
        account = get_account(account_id)
        return open_access_token(account), open_refresh_token(account)


@on_sqlite
@pytest.mark.parametrize(
    "case",
    [
        ({"refusals": 1}, "A person must authorize again. Keap answered 400"),
        ({"refused_at": NOW}, "A person must authorize again. "),
        ({"refresh_token_sealed": None, "kind": "access_token_only"}, "A person must authorize again. "),
        ({"disconnected_at": NOW}, "A person must authorize again. This account was disconnected"),
        ({"client_id": "another"}, "A person must authorize again. This grant belongs to another client id"),
        ({"refresh_token_sealed": b"\x01broken"}, "The stored token does not open, so nothing was sent. "),
    ],
)
def test_refresh_now_says_plainly_why_nothing_can_be_refreshed(
    app: Flask, admin: Visitor, account_id: int, sandbox: Sandbox, case: tuple[dict[str, object], str]
):
    facts, sentence = case
    sandbox.withdraw("ab123")
    with app.app_context(), write_transaction() as session:
        account = session.get_one(Account, account_id)
        for name, value in facts.items():
            setattr(account, name, value)
    admin.get("/accounts")
    token = admin.fields("/signout")["csrf_token"]  # not every such account has a button to press

    admin.page = admin.session.post(f"{admin.base_url}/accounts/1/refresh", data={"csrf_token": token})

    told = [one for one in notices(admin) if not one.startswith("1 stored grant belongs")]
    assert [one.startswith(sentence) for one in told] == [True], told


# Ask Keap again


@on_sqlite
def test_asking_keap_again_fills_the_details_in_or_says_that_keap_did_not_tell(
    admin: Visitor, new_visitor: Callable[[], Visitor], sandbox: Sandbox
):
    sandbox.fault("html_503", endpoint="userinfo")
    new_visitor().connect()
    admin.get("/accounts/1")
    admin.press("/accounts/1/complete")
    assert notices(admin) == ["Keap did not say who this account belongs to. Its tokens are kept."]

    sandbox.clear_faults()
    admin.press("/accounts/1/complete")
    assert notices(admin) == ["Keap has named the account. Its details are stored."]
    assert "Ann Lee" in admin.text


# Dates

AGES = {
    0: "now",
    9.9: "now",
    -9.9: "now",
    10: "in a moment",
    -10: "just now",
    59: "in a moment",
    -59: "just now",
    60: "in 1 min",
    -60: "1 min ago",
    117: "in 1 min",
    119: "in 2 min",
    3597: "in 59 min",
    3599: "in 60 min",
    -3599: "59 min ago",
    3600: "in 1 h",
    -7200: "2 h ago",
    86400 - 151: "in 23 h",
    86399: "in 24 h",
    -86399: "23 h ago",
    86400: "in 1 d",
    -86400: "1 d ago",
    45 * 86400 - 1: "in 45 d",
    45 * 86400 - 3601: "in 44 d",
    -400 * 86400: "400 d ago",
}


@pytest.fixture
def _at_a_change_of_the_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "utc_now", lambda: NOW)


@pytest.mark.usefixtures("_at_a_change_of_the_clocks")
def test_relative_times_are_of_one_unit_which_is_over_or_nearly_full():
    assert {age: rendering.relative_time(NOW + timedelta(seconds=age)) for age in AGES} == AGES


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        (NOW, "2026-03-29 01:30:00 UTC"),
        (datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC), "2028-02-29 23:59:59 UTC"),
        (datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "2026-12-31 23:59:59 UTC"),
    ],
)
def test_exact_times_are_utc_to_the_second(moment: datetime, shown: str):
    assert rendering.exact_time(moment) == shown


@on_sqlite
def test_every_time_on_a_page_can_be_read_by_programs_too(admin: Visitor, account_id: int):
    page = admin.get("/accounts").text + admin.get(f"/accounts/{account_id}").text
    moments = [datetime.fromisoformat(value) for value in re.findall(r'<time datetime="([^"]+)"', page)]

    assert len(moments) >= 5
    assert {moment.utcoffset() for moment in moments} == {timedelta()}

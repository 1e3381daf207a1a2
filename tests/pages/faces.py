"""Every template in every face: empty, usual, needs attention, broken, with the longest and with hostile text.

A face is what a view would hand to its template; what all templates share is added when it is rendered.
"""

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

from keap_connect.access.api_keys import APIKeyView
from keap_connect.accounts.directory import AccountView
from keap_connect.accounts.history import EventView
from keap_connect.accounts.state import NEXT_STEPS, AccountState
from keap_connect.api.documentation import MEANINGS, document, operations_of
from keap_connect.clock import utc_now
from keap_connect.onboarding.endings import Ending
from keap_connect.web.api_keys import LIFETIMES, Wish
from keap_connect.web.api_keys import MEANINGS as KEY_MEANINGS
from keap_connect.web.ending_words import WORDS

HOSTILE = '"><img src=x onerror=alert(1)>'
LONG = (
    "Northern Lights Horticultural Supplies, Greenhouse Engineering and Seasonal Landscaping Cooperative of Springfield"
)
LONG_EMAIL = "a.very.long.local-part.that.somebody.really.has@subdomain.of.a.really-long-company-name.example.com"
ADMIN = SimpleNamespace(email="admin@example.com")
SANDBOX_URL = "http://127.0.0.1:5001"
MANY = 36  # as many rows as fit into a page's bytes when every one of them has a reason to show

NOW = utc_now()
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WORKER = SimpleNamespace(lag_seconds=1.5, refreshed=812, failed=3, paused_until=None, pause_reason=None)
PAUSED_WORKER = SimpleNamespace(
    lag_seconds=640, refreshed=0, failed=40, paused_until=NOW + HOUR / 6, pause_reason="Keap answered 503 to 40 of 40."
)
ALARM = SimpleNamespace(reason="Keap refused 12 of 20 accounts within 10 minutes.")
ACTIVE = AccountView(
    id=1,
    title="Blue Door Bakery",
    tenant_id="ab101",
    business_name="Blue Door Bakery",
    label=None,
    external_id=None,
    person_name="Jane Doe",
    person_email="jane@bluedoor.example",
    is_pending=False,
    state=AccountState.ACTIVE,
    next_step=NEXT_STEPS[AccountState.ACTIVE],
    reasons=[],
    kind="oauth",
    scope="full|ab101.infusionsoft.com",
    access_token_expires_at=NOW + 19 * HOUR,
    refresh_token_expires_at=NOW + 40 * DAY,
    refresh_days_left=40,
    refreshed_at=NOW - 5 * HOUR,
    connected_at=NOW - 120 * DAY,
    disconnected_at=None,
    access_token_masked="…a1B2",
    refresh_token_masked="…Zx90",
)


def in_state(state, *reasons, **changes):
    return replace(ACTIVE, state=state, next_step=NEXT_STEPS[state], reasons=list(reasons), **changes)


AT_RISK = in_state(
    AccountState.AT_RISK,
    "The last 3 refreshes failed. Keap answered 503.",
    "Fewer than 10 of the 45 days of an unused refresh token are left.",
    access_token_expires_at=NOW - 2 * HOUR,
    refresh_token_expires_at=NOW + 6 * DAY,
    refresh_days_left=6,
)
LOST = in_state(
    AccountState.RECONNECT_REQUIRED,
    "Keap refused the stored grant for good. invalid_grant: Invalid refresh token",
    access_token_expires_at=NOW - 3 * DAY,
    refresh_days_left=0,
)
GONE = in_state(
    AccountState.DISCONNECTED,
    "It was disconnected on request.",
    access_token_expires_at=None,
    refresh_token_expires_at=None,
    refresh_days_left=None,
    access_token_masked=None,
    refresh_token_masked=None,
    disconnected_at=NOW - DAY,
)
PENDING = replace(
    ACTIVE,
    title="New Keap account",
    tenant_id=None,
    business_name=None,
    person_name=None,
    person_email=None,
    is_pending=True,
    scope="full",
    refreshed_at=None,
)
LONGEST = replace(
    LOST,
    title=LONG,
    business_name=LONG,
    person_name="Bartholomew Maximilian Featherstonehaugh-Cholmondeley III",
    person_email=LONG_EMAIL,
    external_id="customer:" + "x" * 90,
    reasons=[LONG],
)
UNBROKEN = replace(ACTIVE, title="x" * 120, business_name="x" * 120, person_name="x" * 120, tenant_id="x" * 120)
NASTY = replace(
    AT_RISK,
    title=HOSTILE,
    tenant_id=HOSTILE,
    business_name=HOSTILE,
    label=HOSTILE,
    person_name=HOSTILE,
    person_email=HOSTILE,
    external_id=HOSTILE,
    scope=HOSTILE,
    reasons=[HOSTILE],
)
KEY = replace(ACTIVE, kind="personal_access_token", access_token_expires_at=None, refresh_days_left=None)
API_KEY = APIKeyView(
    id=1,
    public_id="0123456789abcdef",
    name="Nightly sync",
    scopes=["accounts:read", "tokens:read"],
    account_ids=None,
    created_at=NOW - 90 * DAY,
    created_by="admin@example.com",
    expires_at=None,
    revoked_at=None,
    last_used_at=None,
)
USED_KEY = replace(API_KEY, account_ids=[7, 12], expires_at=NOW + 30 * DAY, last_used_at=NOW - HOUR)
REVOKED_KEY = replace(USED_KEY, name="Old job", revoked_at=NOW - DAY)
NASTY_KEY = replace(API_KEY, name=HOSTILE, created_by=HOSTILE, account_ids=list(range(1, 200)))
UNBROKEN_KEY = replace(API_KEY, name="x" * 80, created_by=LONG_EMAIL, expires_at=NOW - DAY)
EVENTS = [
    EventView(NOW - 5 * HOUR, "refreshed", "system", "Refreshed: new tokens are stored."),
    EventView(NOW - 120 * DAY, "connected", "customer", "Connected by Jane Doe."),
]
OPERATIONS = operations_of(document("https://x.example"))
NASTY_EVENTS = [EventView(NOW, "connected", HOSTILE, HOSTILE), EventView(NOW, "connected", LONG_EMAIL, LONG)]


def listing(*accounts, query="", state="", page=1, pages=1, counts=None, **rest):
    if counts is None:
        counts = {state.value: sum(a.state is state for a in accounts) for state in AccountState}
    return {
        "admin": ADMIN,
        "accounts": list(accounts),
        "counts": counts,
        "total": len(accounts),
        "query": query,
        "state": state,
        "page": page,
        "pages": pages,
        "page_url": lambda number: f"/accounts?page={number}",
        "start_url": "https://connect.example.com/",
        "unfinished": 0,
        "workers": [WORKER],
        "alarms": [],
        **rest,
    }


def ended(ending, account=None, keap_said=None, **shared):
    words = replace(WORDS[ending], next_url="/connect" if WORDS[ending].next_is_post else "/your-accounts")
    return {"running": False, "ending": words, "account": account, "keap_said": keap_said, **shared}


def decision(account, **found):
    usual = {"tenant_id": "xy987", "business_name": "Harbor & Pine Dental", "person_email": "priya@harborpine.example"}
    return {"ref": "ref", "account": account, "found": {**usual, "expires_at": NOW + HOUR / 6, **found}}


def key_form(wish, error=None):
    return {"wish": wish, "error": error, "meanings": KEY_MEANINGS, "lifetimes": LIFETIMES, "admin": ADMIN}


def error(status):
    return {
        "status": status,
        "heading": "There is nothing here",
        "explanation": "The address is wrong, or what it showed is gone.",
        "next_label": "Go to the start page",
        "next_url": "/",
        "reference": "8f3a21c0",
    }


FACES = {
    "start": ("connect/start.html", {}),
    "start of a person, in the sandbox": ("connect/start.html", {"person": True, "sandbox_url": SANDBOX_URL}),
    "reconnect": ("connect/reconnect.html", {"account": LOST, "person": True}),
    "reconnect, longest": ("connect/reconnect.html", {"account": LONGEST, "person": True}),
    "reconnect, hostile": ("connect/reconnect.html", {"account": NASTY, "admin": ADMIN}),
    "reconnect, unbroken": ("connect/reconnect.html", {"account": UNBROKEN, "person": True}),
    "reconnect, pending": ("connect/reconnect.html", {"account": PENDING, "person": True}),
    "running": ("connect/result.html", {"running": True, "ending": None, "account": None}),
    "connected": ("connect/result.html", ended(Ending.CONNECTED, ACTIVE, person=True, sandbox_url=SANDBOX_URL)),
    "connected, pending": ("connect/result.html", ended(Ending.CONNECTED_PENDING, PENDING)),
    "connected, longest": ("connect/result.html", ended(Ending.CONNECTED, LONGEST)),
    "denied": ("connect/result.html", ended(Ending.DENIED, keap_said="User denied access to resource")),
    "failed, hostile": ("connect/result.html", ended(Ending.KEAP_ERROR, keap_said=HOSTILE + "x" * 300)),
    "failed": ("connect/result.html", ended(Ending.KEAP_UNREACHABLE)),
    "decision": ("connect/confirm.html", decision(LOST)),
    "decision, longest": ("connect/confirm.html", decision(LONGEST, business_name=LONG, person_email=LONG_EMAIL)),
    "decision, unbroken": ("connect/confirm.html", decision(UNBROKEN, business_name="x" * 120)),
    "decision, hostile": ("connect/confirm.html", decision(NASTY, business_name=HOSTILE, person_email=HOSTILE)),
    "decision, nothing known": ("connect/confirm.html", decision(PENDING, business_name=None, person_email=None)),
    "your accounts, none": ("connect/your_accounts.html", {"accounts": [], "person": True}),
    "your accounts, one": ("connect/your_accounts.html", {"accounts": [ACTIVE], "person": True}),
    "your accounts, all states": (
        "connect/your_accounts.html",
        {"accounts": [LOST, AT_RISK, ACTIVE, GONE, PENDING], "person": True},
    ),
    "your accounts, hard": ("connect/your_accounts.html", {"accounts": [LONGEST, NASTY, UNBROKEN], "person": True}),
    "accounts, none": ("accounts/index.html", listing(unfinished=2)),
    "accounts, one": ("accounts/index.html", listing(ACTIVE)),
    "accounts, many": ("accounts/index.html", listing(*[LOST] * MANY, pages=3)),
    "accounts, no worker": ("accounts/index.html", listing(ACTIVE, workers=[])),
    "accounts, held": ("accounts/index.html", listing(LOST, workers=[WORKER, PAUSED_WORKER], alarms=[ALARM])),
    "accounts, the last page": ("accounts/index.html", listing(AT_RISK, ACTIVE, page=3, pages=3)),
    "accounts, hard": (
        "accounts/index.html",
        listing(LONGEST, NASTY, UNBROKEN, AT_RISK, PENDING, KEY, GONE, query=HOSTILE, page=2, pages=3, unfinished=1),
    ),
    "accounts, not found": ("accounts/index.html", listing(query=HOSTILE, state="at_risk", counts={"active": 3})),
    "accounts, none in this state": ("accounts/index.html", listing(state="at_risk", counts={"active": 3})),
    "account": ("accounts/show.html", {"account": ACTIVE, "events": EVENTS, "admin": ADMIN}),
    "account at risk": ("accounts/show.html", {"account": AT_RISK, "events": EVENTS, "admin": ADMIN}),
    "account, lost": ("accounts/show.html", {"account": LOST, "events": EVENTS, "admin": ADMIN}),
    "account, disconnected": ("accounts/show.html", {"account": GONE, "events": EVENTS, "admin": ADMIN}),
    "account, pending": ("accounts/show.html", {"account": PENDING, "events": [], "admin": ADMIN}),
    "account, a key": ("accounts/show.html", {"account": KEY, "events": [], "admin": ADMIN}),
    "account, longest": ("accounts/show.html", {"account": LONGEST, "events": NASTY_EVENTS, "admin": ADMIN}),
    "account, unbroken": ("accounts/show.html", {"account": UNBROKEN, "events": EVENTS, "admin": ADMIN}),
    "account, hostile": ("accounts/show.html", {"account": NASTY, "events": NASTY_EVENTS, "admin": ADMIN}),
    "disconnect": ("accounts/disconnect.html", {"account": ACTIVE, "cancel_url": "/accounts/1", "admin": ADMIN}),
    "disconnect, longest": ("accounts/disconnect.html", {"account": LONGEST, "cancel_url": "/your-accounts"}),
    "disconnect, unbroken": ("accounts/disconnect.html", {"account": UNBROKEN, "cancel_url": "/your-accounts"}),
    "disconnect, hostile": ("accounts/disconnect.html", {"account": NASTY, "cancel_url": "/your-accounts"}),
    "API keys, none": ("api_keys/index.html", {"keys": [], "admin": ADMIN}),
    "API keys": ("api_keys/index.html", {"keys": [API_KEY, USED_KEY, REVOKED_KEY, *[API_KEY] * 20], "admin": ADMIN}),
    "API keys, hard": ("api_keys/index.html", {"keys": [NASTY_KEY, UNBROKEN_KEY], "admin": ADMIN}),
    "new API key": ("api_keys/create.html", key_form(Wish(["tokens:read"], "365"))),
    "new API key, refused": (
        "api_keys/create.html",
        key_form(Wish(["accounts:read"], "", HOSTILE, HOSTILE), error="The password is wrong."),
    ),
    "API key, shown once": ("api_keys/issued.html", {"key": API_KEY, "text": "kc_" + "0" * 73, "admin": ADMIN}),
    "API key, hostile": ("api_keys/issued.html", {"key": NASTY_KEY, "text": "kc_" + "0" * 73, "admin": ADMIN}),
    "revoke an API key": ("api_keys/revoke.html", {"key": USED_KEY, "admin": ADMIN}),
    "revoke an API key, hostile": ("api_keys/revoke.html", {"key": NASTY_KEY, "admin": ADMIN}),
    "reference of the token API": (
        "api/reference.html",
        {
            "public_url": "https://x.example",
            "operations": OPERATIONS,
            "errors": MEANINGS,
        },
    ),
    "sign-in": ("signin.html", {"error": None, "email": "", "next_path": "/accounts"}),
    "sign-in, refused": ("signin.html", {"error": "E-mail or password is wrong.", "email": HOSTILE, "next_path": ""}),
    "error of the visitor": ("error.html", error(404)),
    "error of ours": ("error.html", error(500)),
}
NOTICES = [("done", HOSTILE), ("attention", LONG), ("failed", "The account could not be refreshed.")]
FACES_WITH_NOTICES = {"start", "account", "your accounts, one"}

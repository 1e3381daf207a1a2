"""Every template in every face: empty, usual, needs attention, broken, with the longest and with hostile text.

A face is what a view would hand to its template; what all templates share is added when it is rendered.
"""

import base64
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import urlencode

from keap_connect.access.admins import AdminView
from keap_connect.access.api_keys import APIKeyView
from keap_connect.access.sign_ins import SignInView
from keap_connect.accounts.directory import USUAL_ORDER, AccountPage, AccountView
from keap_connect.accounts.ordering import Order
from keap_connect.accounts.revealing import RevealedToken
from keap_connect.accounts.state import NEXT_STEPS, AccountState
from keap_connect.api.documentation import described
from keap_connect.clock import utc_now
from keap_connect.connect.client_check import ClientCheck, ClientStanding
from keap_connect.connect.endings import Ending
from keap_connect.connect.import_files import MOST_LINES, PreviewLine
from keap_connect.connect.pending_files import PendingFile
from keap_connect.events.audit_trail import TrailRow
from keap_connect.events.history import EventKind, EventPage, EventView
from keap_connect.settings import Settings
from keap_connect.web.api_keys import LIFETIMES, Wish
from keap_connect.web.api_keys import MEANINGS as KEY_MEANINGS
from keap_connect.web.ending_words import WORDS
from keap_connect.web.patterns import examples
from keap_connect.web.qr_code import draw_qr_code
from keap_connect.web.setup_steps import list_steps

HOSTILE = '"><img src=x onerror=alert(1)>'
LONG = (
    "Northern Lights Horticultural Supplies, Greenhouse Engineering and Seasonal Landscaping Cooperative of Springfield"
)
LONG_EMAIL = "a.very.long.local-part.that.somebody.really.has@subdomain.of.a.really-long-company-name.example.com"
ADMIN = SimpleNamespace(email="admin@example.com", role="admin", totp_on_at=None)
VIEWER = SimpleNamespace(email="viewer@example.com", role="viewer", totp_on_at=None)
SANDBOX_URL = "http://127.0.0.1:5001"
MANY = 20  # as many rows as fit into a page's bytes when every one of them has a reason to show

NOW = utc_now()
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WORKER = SimpleNamespace(lag_seconds=1.5, refreshed=812, failed=3, paused_until=None, pause_reason=None)
PAUSED_WORKER = SimpleNamespace(
    lag_seconds=640, refreshed=0, failed=40, paused_until=NOW + HOUR / 6, pause_reason="Keap answered 503 to 40 of 40."
)
PAUSE = "Refreshing is paused: Keap refused 12 of 20 accounts within 10 minutes. Find out why."
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
    last_used_at=NOW - HOUR,
    has_access_token=True,
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
    has_access_token=False,
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
NASTY_EVENTS = [EventView(NOW, "connected", HOSTILE, HOSTILE), EventView(NOW, "connected", LONG_EMAIL, LONG)]

LINK = SimpleNamespace(id=3, made_at=NOW - DAY, made_by="admin@example.com", expires_at=NOW + 6 * DAY)
NASTY_LINK = SimpleNamespace(id=4, made_at=NOW, made_by=HOSTILE, expires_at=NOW + 7 * DAY)


def page_of(account, *events, pages=1, **rest):
    names = {"label": account.label, "external_id": account.external_id}
    history = EventPage(list(events), 50 * pages, 1 if pages < 3 else 2, pages)
    return {"account": account, "names": names, "errors": {}, "links": [], "history": history, "admin": ADMIN, **rest}


def revealing(account, **rest):
    return {"account": account, "reveals": 2, "revealed": None, "error": None, "problem": None, "admin": ADMIN, **rest}


def listing(*accounts, query="", state="", page=1, pages=1, counts=None, order=USUAL_ORDER, **rest):
    if counts is None:
        counts = {state.value: sum(a.state is state for a in accounts) for state in AccountState}
    return {
        "admin": ADMIN,
        "found": AccountPage(list(accounts), len(accounts), page, pages, counts),
        "query": query,
        "state": state,
        "order": order,
        "list_url": lambda **chosen: f"/accounts?{urlencode(chosen)}",
        "start_url": "https://connect.example.com/",
        "unfinished": 0,
        "workers": [WORKER],
        "pauses": [],
        **rest,
    }


def trail(*events, older=False, **asked):
    return {
        "admin": ADMIN,
        "events": list(events),
        "asked": asked,
        "kinds": list(EventKind),
        "newest_url": None,
        "older_url": "/audit?before=7" if older else None,
        "csv_url": "/audit.csv",
    }


def told(sentence, actor="admin@example.com", title="Blue Door Bakery", address="203.0.113.7"):
    return TrailRow(7, NOW, "disconnected", sentence, actor, address, 1, title, "")


def ended(ending, account=None, keap_said=None, **shared):
    words = replace(WORDS[ending], next_url="/connect" if WORDS[ending].next_is_post else "/your-accounts")
    return {"running": False, "ending": words, "account": account, "keap_said": keap_said, **shared}


def decision(account, **found):
    usual = {"tenant_id": "xy987", "business_name": "Harbor & Pine Dental", "person_email": "priya@harborpine.example"}
    return {"ref": "ref", "account": account, "found": {**usual, "expires_at": NOW + HOUR / 6, **found}}


def guide(settings, check=None, connected=0, workers=0, **rest):
    steps = list_steps(settings, check, connected, workers)
    return {
        "admin": ADMIN,
        "pauses": [PAUSE] if check is REFUSED else [],
        "steps": steps,
        "done": sum(step.tick in {"done", "not_needed"} for step in steps),
        "next_step": next((step for step in steps if step.tick in {"to_do", "trouble"}), None),
        "checked_at": check.checked_at if check else None,
        "client_id": settings.keap.client_id,
        "redirect_uri": settings.keap.redirect_uri,
        "authorize_url": f"{settings.keap.authorize_url}?client_id={settings.keap.client_id}&scope=full",
        "guide_url": f"{settings.keap.authorize_url}?client_id={settings.keap.client_id}",
        "start_url": f"{settings.public_url}/",
        **rest,
    }


def settings_at(public_url, client_id=""):
    key = base64.b64encode(bytes(range(32))).decode()
    secret = "s" * 16 if client_id else ""
    return Settings.from_env(
        {"PUBLIC_URL": public_url, "SECRET_KEY": "0123456789abcdef" * 2, "TOKEN_KEYS": key}
        | {"KEAP_CLIENT_ID": client_id, "KEAP_CLIENT_SECRET": secret}
    )


def one_import(errors=None, **rest):
    usual = {"admin": ADMIN, "errors": errors or {}, "kind": "pasted_token", "client_id": "c" * 32}
    return {**usual, "label": None, "external_id": None, **rest}


def file_import(errors=None, problems=None, held=None):
    return {"admin": ADMIN, "errors": errors or {}, "problems": problems or {}, "held": held}


def held(*lines):
    return PendingFile(b"", list(lines), NOW + HOUR / 6)


def key_form(wish, **errors):
    return {"wish": wish, "errors": errors, "meanings": KEY_MEANINGS, "lifetimes": LIFETIMES, "admin": ADMIN}


def error(status):
    return {
        "status": status,
        "heading": "There is nothing here",
        "explanation": "The address is wrong, or what it showed is gone.",
        "next_label": "Go to the start page",
        "next_url": "/",
        "reference": "8f3a21c0",
    }


LINE = PreviewLine(2, "oauth", "ab101", "Blue Door Bakery", "Jane Doe", "Blue Door Bakery")
NASTY_LINE = PreviewLine(3, "service_account_key", HOSTILE, HOSTILE, HOSTILE, HOSTILE)
LONG_LINE = PreviewLine(4, "personal_access_token", "x" * 120, LONG, LONG_EMAIL, LONG)
SANDBOX, LIVE = settings_at("http://localhost:5000"), settings_at("https://connect.example.com", "c" * 32)
KNOWN = ClientCheck(ClientStanding.KNOWN, "Keap answered 400 (invalid_grant: Authorization code is invalid).", NOW)
REFUSED = replace(KNOWN, standing=ClientStanding.REFUSED, reason=HOSTILE)
SECURED = SimpleNamespace(email="admin@example.com", role="admin", totp_on_at=NOW - DAY)
RECOVERY_CODE = "abcdef-ghijkl-mnopqr-stuvwx"


def sign_in(**changes):
    usual = {
        "ref": "0123456789abcdef",
        "address": "192.0.2.7",
        "browser": "Firefox on Windows",
        "created_at": NOW - HOUR,
        "last_seen_at": NOW - HOUR / 30,
        "is_this_one": False,
    }
    return SignInView(**{**usual, **changes})


def profile(*sign_ins, admin=ADMIN, recovery_codes=0, **errors):
    return {"admin": admin, "sign_ins": sign_ins, "recovery_codes": recovery_codes, "errors": errors}


def enrolment(error=None):
    side, path = draw_qr_code("otpauth://totp/Keap%20Connect:admin%40example.com?secret=MADEUP&issuer=Keap%20Connect")
    return {"admin": ADMIN, "seed": "MADEUP" * 5, "side": side, "path": path, "error": error}


def in_list(email="admin@example.com", role="admin"):
    return AdminView(1, email, role, NOW - 30 * DAY, role == "admin", role == "admin", 2, NOW - HOUR)


def everybody(*admins, **errors):
    typed = {"email": HOSTILE, "role": "admin"} if errors else {}
    return {"admins": admins, "typed": typed, "errors": errors, "admin": ADMIN}


def one_of_them(shown, **errors):
    return {"shown": shown, "act": "remove", "errors": errors, "admin": ADMIN}


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
    "accounts, held": ("accounts/index.html", listing(LOST, workers=[WORKER, PAUSED_WORKER], pauses=[PAUSE])),
    "accounts, sorted": ("accounts/index.html", listing(ACTIVE, AT_RISK, order=Order.parse("-expires"))),
    "accounts, all broken": ("accounts/index.html", listing(LOST, LOST, GONE)),
    "accounts, the last page": ("accounts/index.html", listing(AT_RISK, ACTIVE, page=3, pages=3)),
    "accounts, hard": (
        "accounts/index.html",
        listing(LONGEST, NASTY, UNBROKEN, AT_RISK, PENDING, KEY, GONE, query=HOSTILE, page=2, pages=3, unfinished=1),
    ),
    "accounts, not found": ("accounts/index.html", listing(query=HOSTILE, state="at_risk", counts={"active": 3})),
    "accounts, none in this state": ("accounts/index.html", listing(state="at_risk", counts={"active": 3})),
    "account": ("accounts/show.html", page_of(ACTIVE, *EVENTS)),
    "account at risk": ("accounts/show.html", page_of(AT_RISK, *EVENTS)),
    "account, lost": ("accounts/show.html", page_of(LOST, *EVENTS)),
    "account, disconnected": ("accounts/show.html", page_of(GONE, *EVENTS)),
    "account, pending": ("accounts/show.html", page_of(PENDING)),
    "account, a key": ("accounts/show.html", page_of(KEY)),
    "account, longest": ("accounts/show.html", page_of(LONGEST, *NASTY_EVENTS, links=[NASTY_LINK])),
    "account, unbroken": ("accounts/show.html", page_of(UNBROKEN, *EVENTS)),
    "account, hostile": ("accounts/show.html", page_of(NASTY, *NASTY_EVENTS, links=[NASTY_LINK])),
    "account, long history": ("accounts/show.html", page_of(ACTIVE, *EVENTS * 25, pages=3, links=[LINK])),
    "account, names refused": (
        "accounts/show.html",
        page_of(ACTIVE, names={"label": LONG, "external_id": HOSTILE}, errors={"external_id": "Use letters only."}),
    ),
    "access token": ("accounts/access_token.html", revealing(ACTIVE)),
    "access token, wrong password": (
        "accounts/access_token.html",
        revealing(NASTY, error="Not your password."),
    ),
    "access token, shown": (
        "accounts/access_token.html",
        revealing(ACTIVE, revealed=RevealedToken("canary-access-token" * 8, NOW + HOUR)),
    ),
    "access token, none": ("accounts/access_token.html", revealing(GONE)),
    "access token, broken": ("accounts/access_token.html", revealing(ACTIVE, problem="The token does not open.")),
    "reconnect link": (
        "accounts/reconnect_link.html",
        {"account": LONGEST, "link": "https://connect.example.com/r/" + "x" * 43, "days": 7, "admin": ADMIN},
    ),
    "by link": ("connect/by_link.html", {"token": "x" * 43}),
    "link gone": ("connect/link_gone.html", {}),
    "decision by link": ("connect/confirm.html", decision(None)),
    "patterns": ("patterns.html", examples()),
    "disconnect": ("accounts/disconnect.html", {"account": ACTIVE, "cancel_url": "/accounts/1", "admin": ADMIN}),
    "disconnect, longest": ("accounts/disconnect.html", {"account": LONGEST, "cancel_url": "/your-accounts"}),
    "disconnect, unbroken": ("accounts/disconnect.html", {"account": UNBROKEN, "cancel_url": "/your-accounts"}),
    "disconnect, hostile": ("accounts/disconnect.html", {"account": NASTY, "cancel_url": "/your-accounts"}),
    "audit, empty": ("audit/index.html", trail()),
    "audit, not found": ("audit/index.html", trail(kind="disconnected", who=HOSTILE, **{"from": "2026-11-01"})),
    "audit, full": ("audit/index.html", trail(*[told("Refreshed: new tokens are stored.")] * 50, older=True)),
    "audit, hard": (
        "audit/index.html",
        trail(
            told(LONG, LONG_EMAIL, LONG, "2001:db8:85a3:8d3:1319:8a2e:370:7348"),
            told(HOSTILE, HOSTILE, HOSTILE, HOSTILE),
            told("x" * 120, "x" * 120, "x" * 120),
            told("A job's token.", "system", None, None),
            account=HOSTILE,
        ),
    ),
    "setup in the sandbox": ("setup/index.html", guide(SANDBOX, sandbox_url=SANDBOX_URL)),
    "setup, the client is known": ("setup/index.html", guide(LIVE, KNOWN)),
    "setup, all done": ("setup/index.html", guide(LIVE, KNOWN, connected=3, workers=1)),
    "setup, refused with hostile words": (
        "setup/index.html",
        guide(settings_at("https://intranet", "c" * 32), REFUSED, connected=1, workers=2),
    ),
    "import": ("imports/one.html", one_import()),
    "import, refused": (
        "imports/one.html",
        one_import({"label": "The label may have at most 200 characters."}, label=LONG * 2),
    ),
    "import, would replace": ("imports/one.html", one_import({"replace": LONG})),
    "import, hostile": (
        "imports/one.html",
        one_import({"form": HOSTILE, "password": HOSTILE}, label=HOSTILE, external_id=HOSTILE),
    ),
    "import of a file": ("imports/file.html", file_import()),
    "import of a file, refused": ("imports/file.html", file_import({"file": "The file is not UTF-8 text."})),
    "import of a file, bad lines": ("imports/file.html", file_import(problems={2: LONG, 17: "The kind is missing."})),
    "import of a file, looked through": ("imports/file.html", file_import(held=held(LINE, LONG_LINE))),
    "import of a file, hostile": (
        "imports/file.html",
        file_import({"password": HOSTILE}, problems={3: HOSTILE}, held=held(NASTY_LINE)),
    ),
    "import of a file, most lines": ("imports/file.html", file_import(held=held(*[LINE] * MOST_LINES))),
    "export": ("exports/accounts.html", {"admin": ADMIN, "error": None}),
    "export, refused": ("exports/accounts.html", {"admin": ADMIN, "error": "The password is wrong."}),
    "account of a viewer": ("accounts/show.html", page_of(PENDING, *EVENTS, admin=VIEWER)),
    "accounts of a viewer": ("accounts/index.html", listing(ACTIVE, admin=VIEWER)),
    "sign-in": ("signin/password.html", {"error": None, "email": "", "next_path": "/accounts"}),
    "sign-in, refused": (
        "signin/password.html",
        {"error": "E-mail or password is wrong.", "email": HOSTILE, "next_path": ""},
    ),
    "second step": ("signin/code.html", {"error": None, "next_path": "/accounts"}),
    "second step, refused": ("signin/code.html", {"error": "That code is wrong.", "next_path": ""}),
    "new password": ("signin/new_password.html", {"email": LONG_EMAIL, "ticket": "x" * 32, "error": None}),
    "new password, refused": (
        "signin/new_password.html",
        {"email": HOSTILE, "ticket": "x" * 32, "error": "It is too short."},
    ),
    "profile": ("profile/show.html", profile(sign_in(is_this_one=True))),
    "profile, second factor on": (
        "profile/show.html",
        profile(sign_in(is_this_one=True), sign_in(), admin=SECURED, recovery_codes=1),
    ),
    "profile, hostile": (
        "profile/show.html",
        profile(sign_in(browser=HOSTILE, address=HOSTILE), sign_in(browser=None)),
    ),
    "profile, refused": (
        "profile/show.html",
        profile(sign_in(), factor_password=LONG, password="That password is wrong.", new_password=LONG),
    ),
    "second factor": ("profile/second_factor.html", enrolment()),
    "second factor, refused": ("profile/second_factor.html", enrolment(error="That code is wrong.")),
    "recovery codes": ("profile/recovery_codes.html", {"codes": [RECOVERY_CODE] * 10, "admin": ADMIN}),
    "admins": ("admins/index.html", everybody(in_list(), in_list(VIEWER.email, "viewer"))),
    "admins, hard": (
        "admins/index.html",
        everybody(*[in_list(HOSTILE), in_list(LONG_EMAIL)] * 20, email=LONG, password="Your password is wrong."),
    ),
    "an admin": ("admins/show.html", one_of_them(in_list())),
    "a viewer, hostile": ("admins/show.html", one_of_them(in_list(HOSTILE, "viewer"), act=HOSTILE, password=HOSTILE)),
    "link for an admin": (
        "admins/link.html",
        {"email": LONG_EMAIL, "link": f"https://connect.example.com/new-password/{'x' * 32}", "admin": ADMIN},
    ),
    "API keys, none": ("api_keys/index.html", {"keys": [], "admin": ADMIN}),
    "API keys": ("api_keys/index.html", {"keys": [API_KEY, USED_KEY, REVOKED_KEY, *[API_KEY] * 20], "admin": ADMIN}),
    "API keys, hard": ("api_keys/index.html", {"keys": [NASTY_KEY, UNBROKEN_KEY], "admin": ADMIN}),
    "new API key": ("api_keys/create.html", key_form(Wish(["tokens:read"], "365"))),
    "new API key, refused": (
        "api_keys/create.html",
        key_form(Wish(["accounts:read"], "", HOSTILE, HOSTILE), form="Choose what the key may do.", password="Wrong."),
    ),
    "API key, shown once": ("api_keys/issued.html", {"key": API_KEY, "text": "kc_" + "0" * 73, "admin": ADMIN}),
    "API key, hostile": ("api_keys/issued.html", {"key": NASTY_KEY, "text": "kc_" + "0" * 73, "admin": ADMIN}),
    "revoke an API key": ("api_keys/revoke.html", {"key": USED_KEY, "admin": ADMIN}),
    "revoke an API key, hostile": ("api_keys/revoke.html", {"key": NASTY_KEY, "admin": ADMIN}),
    "reference of the token API": ("api/reference.html", described("https://x.example")),
    "error of the visitor": ("error.html", error(404)),
    "error of ours": ("error.html", error(500)),
    "error of a busy moment": ("error.html", {**error(503), "next_label": "Try again", "next_url": ""}),
}
NOTICES = [("done", HOSTILE), ("attention", LONG), ("failed", "The account could not be refreshed.")]
FACES_WITH_NOTICES = {"start", "account", "your accounts, one"}

"""Every page in every face, in one table; a page that is missing here fails a test."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from requests import Response, Session

from keap_connect.accounts.directory import PAGE_SIZE
from keap_connect.accounts.state import AccountState
from keap_connect.api.documentation import ORDER
from keap_connect.connect.endings import Ending
from keap_connect.web.bulk import ACTS, INVITATION_ACTS
from keap_connect.web.ending_words import WORDS
from tests.browser.world import ACCOUNTS, HOSTILE, INVITATIONS, LINK_TOKEN, LONG, RECOVERY_CODE, THROTTLED_EMAIL
from tests.conftest import ADMIN_PASSWORD
from tests.support.forms import send_form
from tests.support.sandbox import CLIENT_ID, CLIENT_SECRET
from tests.web.inventory import UNSUBSCRIBE_TOKEN

Act = Callable[[Session, Response], Response]


@dataclass(frozen=True)
class Face:
    """One look of one page.

    Args:
        path: may hold the names of the world's accounts in braces.
        role: whose cookies the browser has.
        act: what is done on the page, and leads to the face.
        is_unfolded: whether all that can be unfolded is open.
    """

    name: str
    path: str
    role: str = "nobody"
    status: int = 200
    act: Act | None = None
    is_unfolded: bool = False


def press(name: str) -> Act:
    """Press a button."""
    return send(name)


def send(button: str, **fields: str) -> Act:
    """Give the fields of these names other values, hidden ones too, and press a button."""
    return lambda session, page: send_form(session, page, button, fields)


def make_and_list(session: Session, page: Response) -> Response:
    """Make a key in the sandbox and go back to the list of them."""
    press("Make a Service Account Key")(session, page)
    return session.get(page.url)


def sign_in_as(email: str) -> Act:
    """Try to sign in."""
    return send("Sign in", email=email, password="not the password")


def check_file(content: str, button: str = "Check only") -> Act:
    """Send a file to be checked."""
    return lambda session, page: send_form(session, page, button, {}, ("accounts.csv", content.encode()))


TOKEN_OF_ACTIVE, SHOW_TOKEN = "/accounts/{active}/access-token", "Show the access token"
WITHOUT_FLOW = [code for code, words in WORDS.items() if words.status != 200] + [Ending.DENIED, Ending.KEAP_ERROR]
WHOLE_PAGE = urlencode([("account", number) for number in range(1, PAGE_SIZE + 1)])
APP_FACES = [
    Face("start", "/", is_unfolded=True),
    Face("start of a customer", "/", "customer"),
    Face("start of an admin", "/", "admin"),
    Face("connect", "/connect"),
    *[Face(f"reconnect, {one}", f"/reconnect/{{{one}}}", "admin") for one in ACCOUNTS],
    Face("reconnect of a customer", "/reconnect/{active}", "customer"),
    *[Face(f"ended, {code}", f"/connect/ended/{code}", status=WORDS[code].status) for code in WITHOUT_FLOW],
    *[Face(f"result, {code}", f"/connect/{code}", "returning", WORDS[code].status) for code in WORDS],
    Face("result, long names", "/connect/connected-long", "returning"),
    Face("result, hostile names", "/connect/connected-hostile", "returning"),
    Face("result, hostile words of Keap", "/connect/keap-said", "returning"),
    Face("result, running", "/connect/running", "returning"),
    Face("question", "/connect/held", "returning"),
    Face("question, long names", "/connect/held-long", "returning"),
    Face("question, hostile names", "/connect/held-hostile", "returning"),
    Face("question, no names", "/connect/held-unknown", "returning"),
    Face("your accounts, none", "/your-accounts", "customer of none"),
    Face("your accounts, one", "/your-accounts", "customer of one"),
    Face("your accounts, many", "/your-accounts", "customer"),
    Face("accounts", "/accounts", "admin"),
    *[Face(f"accounts, {state}", f"/accounts?state={state}", "admin") for state in AccountState],
    Face("accounts, found", "/accounts?q=acme", "admin"),
    Face("accounts, not found", f"/accounts?{urlencode({'q': HOSTILE})}", "admin"),
    Face("accounts, long search", f"/accounts?{urlencode({'q': LONG[:100]})}", "admin"),
    Face("accounts, none in this state", "/accounts?q=acme&state=disconnected", "admin"),
    Face("accounts, sorted", "/accounts?sort=-used", "admin"),
    *[Face(f"many accounts, {act}", f"/accounts/bulk?act={act}&account={{long}}", "admin") for act in ACTS],
    Face("many accounts, a whole page", f"/accounts/bulk?act=links&{WHOLE_PAGE}", "admin"),
    Face(
        "many accounts, refused", "/accounts/bulk?act=disconnect&account={long}", "admin", 422,
        act=send("Disconnect", password="x", count="2"),
    ),
    Face("job for many accounts, hostile name", "/jobs/3", "admin"),
    Face("links of a job", "/jobs/3/links", "admin"),
    Face("links of a job, refused", "/jobs/3/links", "admin", 401, act=send("Download", password="x")),
    *[Face(f"invitations, {act}", f"/invitations/bulk?act={act}&invitation=1", "admin") for act in INVITATION_ACTS],
    Face("job for many accounts, running", "/jobs/4", "admin"),
    Face("journeys", "/accounts/journeys", "admin"),
    Face("journeys, not found", f"/accounts/journeys?{urlencode({'reference': HOSTILE})}", "admin"),
    Face("accounts, tables unfolded", "/accounts?sort=account", "admin", is_unfolded=True),
    *[Face(f"account, {one}", f"/accounts/{{{one}}}", "admin") for one in ACCOUNTS],
    Face("account, long history", "/accounts/{active}?before=1", "admin"),
    Face("account, a key", "/accounts/{key_token}", "admin"),
    Face(
        "account, disconnected, hostile name", "/accounts/{doomed}/disconnect", "admin",
        act=send("Disconnect", password=ADMIN_PASSWORD),
    ),
    Face("account, not refreshed", "/accounts/{unreadable}", "admin", act=press("Refresh now")),
    Face("account, names refused", "/accounts/{gone}", "admin", 422, act=send("Save the names", external_id=HOSTILE)),
    *[Face(f"access token, {one}", f"/accounts/{{{one}}}/access-token", "admin") for one in ("active", "gone", "long")],
    Face("access token, wrong password", TOKEN_OF_ACTIVE, "admin", 401, act=send(SHOW_TOKEN, password="x")),
    Face("access token, shown", TOKEN_OF_ACTIVE, "admin", act=send(SHOW_TOKEN, password=ADMIN_PASSWORD)),
    Face(
        "access token, unreadable", "/accounts/{unreadable}/access-token", "admin", 422,
        act=send(SHOW_TOKEN, password=ADMIN_PASSWORD),
    ),
    Face("reconnect link", "/accounts/{long}", "admin", act=press("Send reconnect link")),
    Face("by link", f"/r/{LINK_TOKEN}"),
    Face("by link, gone", "/r/no-such-link", status=404),
    Face("by link, denied", "/connect/denied-by-link", "returning"),
    Face("question, by link", "/connect/held-by-link", "returning"),
    *[Face(f"disconnect, {one}", f"/accounts/{{{one}}}/disconnect", "admin") for one in ("active", "long", "hostile")],
    Face("disconnect, refused", "/accounts/{active}/disconnect", "admin", 401, act=send("Disconnect", password="x")),
    Face("erase, hostile name", "/accounts/{hostile}/erase", "admin"),
    Face("disconnect of a customer", "/accounts/{active}/disconnect", "customer"),
    Face("audit", "/audit", "admin"),
    Face("audit, found", "/audit?kind=admin_sign_in_refused&from=2026-01-01", "admin"),
    Face("audit, not found", f"/audit?{urlencode({'who': HOSTILE})}", "admin"),
    Face("audit, not understood", f"/audit?{urlencode({'account': HOSTILE, 'from': 'x', 'kind': 'x'})}", "admin"),
    Face("health, hostile reason of a pause", "/health", "admin", is_unfolded=True),
    Face("health of a viewer, earlier hours", "/health?until=2026-11-01T12:00:00Z", "viewer"),
    Face("setup", "/setup", "admin"),
    Face("support", "/support", "admin"),
    Face("import", "/import", "admin"),
    Face(
        "import, refused",
        "/import",
        "admin",
        401,
        act=send("Import", access_token="not-a-token", password="not the password", label=LONG),
    ),
    Face("import of a file", "/import/file", "admin"),
    Face("import of a file, refused", "/import/file", "admin", 422, act=check_file("nonsense")),
    Face("job, over", "/jobs/1", "admin"),
    Face("job, running", "/jobs/2", "admin"),
    Face("job of a viewer", "/jobs/2", "viewer"),
    Face("error 404, no such job", "/jobs/999999", "admin", 404),
    Face("export", "/export", "admin"),
    Face("export, refused", "/export", "admin", 401, act=send("Download", password="not the password")),
    Face("API keys", "/api-keys", "admin"),
    Face("new API key", "/api-keys/new", "admin"),
    Face("new API key, refused", "/api-keys/new", "admin", 401, act=send("Create the key", name=LONG, password="x")),
    Face("new API key, made", "/api-keys/new", "admin", act=send("Create the key", name="J", password=ADMIN_PASSWORD)),
    Face("rotate an API key", "/api-keys/{key}/rotate", "admin", 401, act=send("Make the new key", password="x")),
    Face("revoke an API key", "/api-keys/{key}/revoke", "admin"),
    Face("error 404, no such API key", "/api-keys/999999/revoke", "admin", 404),
    *[Face(f"invitation of a customer, {state}", f"/i/{token}") for state, token in INVITATIONS.items()],
    Face("result, to be confirmed", "/connect/invited", "returning"),
    Face("invitations", "/invitations", "admin"),
    Face("invitations of a viewer", "/invitations", "viewer"),
    Face("invitations, searched", f"/invitations?{urlencode({'q': LONG[:100]})}", "admin"),
    Face("invitations, not found", f"/invitations?{urlencode({'q': HOSTILE})}", "admin"),
    Face("invitations, the last ones", "/invitations?before=9", "admin"),
    Face("invitations, none in this state", "/invitations?state=expired", "admin"),
    Face("new invitation", "/invitations/new", "admin"),
    Face("new invitation, refused", "/invitations/new", "admin", 422, act=send("Make the invitation", external_id="é")),
    Face("new invitation, made", "/invitations/new", "admin", act=send("Make the invitation", label=LONG)),
    Face("invite many", "/invitations/file", "admin"),
    Face("invite many, refused", "/invitations/file", "admin", 422, act=check_file("x\n", "Invite all")),
    *[Face(f"invitation {number}", f"/invitations/{number}", "admin") for number in (1, 2, 3)],
    Face("invitation of a viewer", "/invitations/1", "viewer"),
    Face("error 404, no such invitation", "/invitations/999999", "admin", 404),
    Face("webhooks", "/webhooks", "admin"),
    Face("webhooks of a viewer", "/webhooks", "viewer"),
    Face("new webhook", "/webhooks/new", "admin"),
    Face("new webhook, refused", "/webhooks/new", "admin", 422, act=send("Add the webhook", url="http://example.com/")),
    Face("new webhook, made", "/webhooks/new", "admin", act=send("Add the webhook", url="https://example.com/")),
    Face("webhook, hostile name", "/webhooks/1", "admin", is_unfolded=True),
    Face("webhook, switched off", "/webhooks/2", "admin"),
    Face("webhook of a viewer", "/webhooks/1", "viewer"),
    Face("change a webhook", "/webhooks/1/edit", "admin"),
    Face("error 404, no such webhook", "/webhooks/999999", "admin", 404),
    Face("reference of the token API", "/api/docs"),
    *[Face(f"reference of the token API, {group}", f"/api/docs/{group.lower()}") for group in ORDER],
    *[Face(f"document, {name}", f"/help/{name}", "viewer") for name in ("README.md", "docs/jobs.md", "docs/pages.md")],
    Face("error 404, no such document", "/help/docs/../requirements.in", "viewer", 404),
    Face("sign-in", "/signin?next=/accounts"),
    Face("sign-in, refused", "/signin", status=401, act=sign_in_as("nobody@example.com")),
    Face(
        "sign-in, code refused", "/signin", status=422,
        act=send("Sign in", email="n@e.example", password="x", sign_in_code="x"),
    ),
    Face("sign-in, throttled", "/signin", status=429, act=sign_in_as(THROTTLED_EMAIL)),
    Face("second step", "/signin/code", "at the second step"),
    Face("second step, refused", "/signin/code", "at the second step", 401, act=send("Continue", code="000000")),
    Face("new password", "/new-password/{ticket}"),
    Face("new password, refused", "/new-password/{ticket}", status=422, act=send("Set password", new_password="x")),
    Face("new password, link gone", "/new-password/no-such-link", status=404),
    Face("profile, hostile browser", "/profile", "viewer"),
    Face("profile, second factor on", "/profile", "secured"),
    Face("profile, wrong password", "/profile", "viewer", 401, act=send("Set up", password="not the password")),
    Face("second factor", "/profile/second-factor", "enrolling"),
    Face("second factor, refused", "/profile/second-factor", "enrolling", 422, act=send("Turn on", code="000000")),
    Face(
        "recovery codes", "/profile", "secured",
        act=send("Replace the recovery codes", password=ADMIN_PASSWORD, code=RECOVERY_CODE),
    ),
    Face("mail, hostile answer", "/mail", "admin"),
    Face("mail, not sent", "/mail", "admin", act=press("Send a test mail")),
    Face("stop mails", f"/mail/unsubscribe/{UNSUBSCRIBE_TOKEN}"),
    Face("mails stopped", f"/mail/unsubscribe/{UNSUBSCRIBE_TOKEN}", act=press("Stop these mails")),
    Face("stop mails, link gone", "/mail/unsubscribe/no-such-link", status=404),
    Face("admins", "/admins", "admin"),
    Face("admins, refused", "/admins", "admin", 401, act=send("Invite", email="n@example.com", password="x")),
    Face("an admin", "/admins/1", "admin"),
    Face("an admin, refused", "/admins/1", "admin", 401, act=send("Remove", password="x")),
    Face("a new admin", "/admins", "admin", act=send("Invite", email="n@e.example", password=ADMIN_PASSWORD)),
    Face("an invited admin", "/admins/{invited}", "admin"),
    Face("invitation of an admin", "/new-password/{invitation}"),
    Face("new link for an admin", "/admins/{invited}", "admin", act=send("Make a new link", password=ADMIN_PASSWORD)),
    Face("accounts of a viewer", "/accounts", "viewer"),
    Face("account of a viewer", "/accounts/{pending}", "viewer"),
    Face("setup of a viewer", "/setup", "viewer"),
    Face("your accounts of a viewer", "/your-accounts", "viewer"),
    Face("error 403, a viewer", "/admins", "viewer", 403),
    Face(
        "error 400", "/connect/held", "returning", 400, act=send("Connect Bright Dental as a new account", choice="x")
    ),
    Face("error 403, forged form", "/", status=403, act=send("Connect Keap", csrf_token="x")),
    Face("your accounts, not signed in", "/your-accounts"),
    Face("error 403, unknown customer", "/reconnect/{active}", status=403),
    Face("error 404", "/nothing-here", status=404),
    Face("error 404, no such account", "/accounts/999999", "admin", 404),
    Face("error 405", "/signout", status=405),
    Face("error 500", "/connect/nonsense", "returning", 500),
    Face("error 409, broken seal", "/connect/held-broken", "returning", 409),
]  # fmt: skip

ANN, DORA, EVE = "ann.lee@example.com", "dora.quist@example.com", "eve.stone@example.com"
AUTHORIZE = "/app/oauth/authorize?" + urlencode(
    {"client_id": CLIENT_ID, "redirect_uri": "http://localhost:5000/callback", "response_type": "code", "scope": "full"}
)
GENERATE = "Generate API Token"
SANDBOX_FACES = [
    Face("about", "/"),
    Face("control", "/sandbox?done=fault", is_unfolded=True),
    Face("control, refused", "/sandbox", status=400, act=send("Set the fault", parameters="x")),
    Face("ledger", "/sandbox/ledger"),
    Face("sign-in", "/app/signin"),
    Face("sign-in on the way", AUTHORIZE),
    Face("consent", AUTHORIZE, ANN),
    Face("consent, hostile name", AUTHORIZE, EVE),
    Face("consent, no Keap app", AUTHORIZE, DORA),
    Face("consent, wrong client", "/app/oauth/authorize?client_id=x", status=400),
    Face("central", "/app/central/home", ANN),
    Face("central, no Keap app", "/app/central/home", DORA),
    Face("API access", "/app/central/gh012/api-access", EVE),
    Face(
        "API access, refused", "/app/central/ab123/api-access", ANN, 400,
        act=send(GENERATE, client_id="x", client_secret="x"),
    ),
    Face(
        "API token", "/app/central/ab123/api-access", ANN,
        act=send(GENERATE, client_id=CLIENT_ID, client_secret=CLIENT_SECRET),
    ),
    Face("API settings, none", "/app/central/gh012/api-settings", EVE),
    Face("API settings", "/app/central/cd456/api-settings", ANN, act=make_and_list),
    Face("API key", "/app/central/ab123/api-settings", ANN, act=press("Make a Personal Access Token")),
    Face("applications", "/app/central/gh012/authorized-applications", EVE),
    Face("applications, none", "/app/central/cd456/authorized-applications", ANN),
    Face("error 404", "/nothing-here", status=404),
]  # fmt: skip
SITES = {
    # All patterns come first: then axe need not look at them again wherever they are.
    "empty": [Face("patterns", "/patterns"), Face("accounts", "/accounts", "admin")],
    "app": APP_FACES,
    "one": [
        Face("accounts", "/accounts", "admin"),
        Face("account", "/accounts/1", "admin"),
        Face("API keys, none", "/api-keys", "admin"),
        Face("webhooks, none", "/webhooks", "admin"),
        Face("invitations, none", "/invitations", "admin"),
        Face("health, no figures", "/health", "admin"),
        Face("start, by invitation", "/"),
        Face("profile", "/profile", "admin"),
        Face("mail, none", "/mail", "admin"),
        Face("setup, nothing checked", "/setup", "admin"),
        Face("setup, checked", "/setup", "admin", act=press("Check now")),
    ],
    "sandbox": SANDBOX_FACES,
}

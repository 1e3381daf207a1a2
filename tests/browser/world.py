"""What all faces of the pages are looked at in: accounts in every state, flows with every ending, people signed in."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from flask import Flask
from sqlalchemy import insert, select, update

from keap_connect.access.admins import create_admin, invite_admin, list_admins
from keap_connect.access.api_keys import Scope, issue_api_key, revoke_api_key
from keap_connect.access.passwords import ATTEMPTS_PER_EMAIL, issue_password_link, verify_password
from keap_connect.access.second_factor import begin_second_step, prepare
from keap_connect.access.sign_ins import sign_in_admin, sign_in_person
from keap_connect.accounts.directory import PAGE_SIZE
from keap_connect.accounts.state import AccountState
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect.endings import Ending
from keap_connect.connect.flows import find_flow
from keap_connect.connect.invitations import NewInvitation, add_invitation
from keap_connect.crypto import hash_secret
from keap_connect.database import db, write_transaction
from keap_connect.errors import TooManyAttempts
from keap_connect.events.history import Actor, EventKind, record
from keap_connect.events.mailing import RECONNECT, new_mail
from keap_connect.jobs.bulk import start_bulk
from keap_connect.jobs.records import ItemOutcome, NewItem, make_job
from keap_connect.keap.user_info import Identity
from keap_connect.models import (
    Account,
    AccountEvent,
    Admin,
    Alarm,
    Delivery,
    Job,
    JobItem,
    JobKind,
    OneTimeToken,
    RecoveryCode,
    Role,
    WebhookEndpoint,
)
from keap_connect.notifications.endpoints import add_endpoint, change_endpoint, switch_off
from keap_connect.settings import Settings
from keap_connect.web.ending_words import WORDS
from keap_connect.web.jobs import MOST_SHOWN
from tests.browser.seed import HOUR, add_account, add_figures, add_flow, add_link, add_worker, sealed_grant
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD, SECRET_KEY, TOKEN_KEY
from tests.support.sandbox import EVE, PERSON_IDS, Sandbox, basic
from tests.support.server import free_port, serve

MAIL = {"SMTP_URL": "smtp://127.0.0.1:1", "MAIL_FROM": "Acme Sync <connect@example.com>", "CUSTOMER_MAIL": "on"}
SERVICE = {"SERVICE_NAME": "Acme Sync", "SUPPORT_EMAIL": "support@example.com", "PRIVACY_URL": "https://example.com/p"}
# An orange PNG of 600 by 150 pixels: wider than the header of a phone.
LOGO = (
    "iVBORw0KGgoAAAANSUhEUgAAAlgAAACWAQMAAAA41WRyAAAABlBMVEXQUBAAAADfUz20AAAAIklEQVR42u3BMQEAAADCoPVPbQZ/"
    "oAAAAAAAAAAAAAAAPgMsiAAB+TefBAAAAABJRU5ErkJggg=="
)
BROWSER = "b" * 43  # the cookie of the browser that all flows were started in
THROTTLED_EMAIL = "throttled@example.com"
RECOVERY_CODE = "a" * 24
LINK_TOKEN = "canary-link-" + "l" * 31
INVITATIONS = {"waiting": "w" * 43, "opened": "o" * 43, "connected": "c" * 43}  # the secrets of their links
HOSTILE = '"><img src=x onerror=alert(1)>'
LONG = "Nordlicht" * 13 + "GmbH"  # 121 characters, and no place to break the line
ACCOUNTS = ("active", "at_risk", "lost", "gone", "pending", "long", "hostile", "unreadable")

Cookies = dict[str, str]


@dataclass
class World:
    """Where the three sites are, what the accounts are called, and which cookies make a browser somebody's."""

    sandbox: Sandbox
    apps: dict[str, Flask] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, int | str] = field(default_factory=dict)
    cookies: dict[tuple[str, str], Cookies] = field(default_factory=dict)


def settings_for(sandbox: Sandbox, database: Path, **more: str) -> Settings:
    """Return settings for an app of its own on a free port, with an SQLite file and this sandbox."""
    port = free_port()
    return Settings.from_env(
        {
            "PORT": str(port),
            "PUBLIC_URL": f"http://localhost:{port}",
            "SECRET_KEY": SECRET_KEY,
            "TOKEN_KEYS": TOKEN_KEY,
            "DATABASE_URL": f"sqlite:///{database}",
            "KEAP_AUTHORIZE_URL": f"{sandbox.url}/app/oauth/authorize",
            "KEAP_TOKEN_URL": f"{sandbox.url}/token",
            "KEAP_API_URL": f"{sandbox.url}/crm/rest",
            **more,
        }
    )


@contextmanager
def open_world(sandbox: Sandbox, folder: Path, empty_sqlite: Path) -> Iterator[World]:
    """Fill the sandbox and three apps, and serve them: one stays without an account, one gets a single one."""
    world = World(sandbox, urls={"sandbox": sandbox.url})
    _fill_sandbox(world)
    logo = folder / "logo.png"
    logo.write_bytes(base64.b64decode(LOGO))
    with ExitStack() as stack:
        for site in ("app", "one", "empty"):
            settings = settings_for(
                sandbox,
                shutil.copy(empty_sqlite, folder / f"{site}.db"),
                **({**MAIL, **SERVICE, "SERVICE_LOGO": str(logo)} if site == "app" else {}),
                **({"CONNECT_MODE": "invitation"} if site == "one" else {"RETURN_ORIGINS": "https://example.com"}),
            )
            with pytest.MonkeyPatch.context() as environ:
                environ.setenv("FLASK_DEBUG", "1" if site == "empty" else "0")  # for the page of all patterns
                app = create_app(settings)
            stack.enter_context(serve(app, settings.port))
            with app.app_context():
                stack.callback(db.engine.dispose)
                admin = create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
                assert admin is not None
                world.cookies[site, "admin"] = {"admin": sign_in_admin(admin)}
            world.apps[site], world.urls[site] = app, settings.public_url
        with world.apps["app"].app_context():
            _fill_accounts(world)
            _fill_flows(world)
            _sign_people_in(world)
            _sign_admins_in(world)
            _make_jobs(world)
            _make_webhooks(world)
            _invite(world)
            _send_mails(world)
            _throttle()
            _trouble_the_worker()
            add_figures()
        with world.apps["one"].app_context():
            add_account("Acme Plumbing", "ab101", f"{'a.long.name.of.somebody' * 2} Doe")
        yield world


def _fill_sandbox(world: World) -> None:
    sandbox = world.sandbox
    sandbox.release()
    sandbox.reset()
    sandbox.rename("ab123", LONG)
    token = sandbox.grant("gh012", EVE)[0]["refresh_token"]
    for refresh_token in (token, token):
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        requests.post(f"{sandbox.url}/token", data=form, headers={"Authorization": basic()}, timeout=10)
    sandbox.fault("slow", "profile", seconds=1.5, first=3)
    for email in PERSON_IDS:
        world.cookies["sandbox", email] = sandbox.signed_in(email).cookies.get_dict()


def _fill_accounts(world: World) -> None:
    mine = {"keap_user_id": "customer"}
    states = AccountState
    unreadable = {"access_token_sealed": b"not ours", "refresh_token_sealed": b"not ours"}
    world.accounts |= {
        "active": add_account("Acme Plumbing", "ab101", "Ann Lee", **mine),
        "at_risk": add_account("Bright Dental", "cd102", "Ann Lee", states.AT_RISK, label="Dentist", **mine),
        "lost": add_account("Cedar & Sons", "ef103", "Ann Lee", states.RECONNECT_REQUIRED, **mine),
        "gone": add_account("Finn's Bikes", "ij104", "Ann Lee", states.DISCONNECTED, **mine),
        "pending": add_account(None, None, None),
        "long": add_account(LONG, "kl105", LONG, states.AT_RISK, external_id=LONG, failure_reason=LONG, **mine),
        "hostile": add_account(HOSTILE, "mn106", HOSTILE, label=HOSTILE, external_id=HOSTILE, scope=HOSTILE, **mine),
        "unreadable": add_account("Gone Key", "op107", "Ann Lee", **unreadable, **mine),
        "key_token": add_account("Key of a Person", "wx110", "Ann Lee", kind="personal_access_token"),
        "doomed": add_account(HOSTILE, "yz111", "Dora Doomed"),
        "only": add_account("Only One", "qr108", "Otto One"),
        "taken": add_account("Taken Over", "st109", "Tom Taken"),
    }
    with write_transaction() as session:
        event = {"at": utc_now(), "kind": EventKind.REFRESHED, "actor": Actor.SYSTEM, "details": {}}
        session.execute(insert(AccountEvent), [event | {"account_id": world.accounts["active"]}] * 120)
    world.accounts["invitation"] = invite_admin(f"{LONG[:60]}@example.com", Role.VIEWER, LONG).rpartition("/")[2]
    world.accounts["invited"] = next(one.id for one in list_admins() if one.invited_by)
    world.accounts["ticket"] = issue_password_link(ADMIN_EMAIL, "x").rpartition("/")[2]
    issue_api_key(HOSTILE, list(Scope), LONG, account_ids=[world.accounts["active"]])
    world.accounts["key"] = issue_api_key("Nightly sync", [Scope.TOKENS_READ], ADMIN_EMAIL).row.id
    revoke_api_key(issue_api_key(LONG[:80], [Scope.ACCOUNTS_READ], ADMIN_EMAIL).row.id, ADMIN_EMAIL)
    for number in range(PAGE_SIZE):
        add_account(f"Company {number}", f"uv{200 + number}", f"Person {number}")


def _fill_flows(world: World) -> None:
    active, names = world.accounts["active"], world.accounts
    for code in WORDS:
        add_flow(BROWSER, code, code, active)
    add_flow(BROWSER, "running", None, consumed_at=utc_now() + HOUR)  # so it is still running when its turn comes
    add_flow(BROWSER, "connected-long", Ending.CONNECTED, names["long"])
    add_flow(BROWSER, "connected-hostile", Ending.CONNECTED, names["hostile"])
    add_flow(BROWSER, "keap-said", Ending.KEAP_ERROR, keap_said=HOSTILE + LONG)
    add_flow(BROWSER, "never-came-back", None, consumed_at=None, expires_at=utc_now() - HOUR)
    add_flow(BROWSER, "nonsense", "no such ending")
    link_id = add_link(names["hostile"], LINK_TOKEN, HOSTILE)
    by_link = {"pending_grant_sealed": sealed_grant("held-by-link", Identity("cd456", "other", LONG, LONG, LONG))}
    add_flow(BROWSER, "held-by-link", Ending.DECISION_PENDING, active, reconnect_link_id=link_id, **by_link)
    add_flow(BROWSER, "denied-by-link", Ending.DENIED, active, reconnect_link_id=link_id)
    add_flow(BROWSER, "held-broken", Ending.DECISION_PENDING, active, pending_grant_sealed=b"not ours")
    for ref, account, name in (
        ("held", active, "Bright Dental"),
        ("held-long", names["long"], LONG),
        ("held-hostile", names["hostile"], HOSTILE),
        ("held-unknown", active, None),
    ):
        identity = Identity("cd456", "other", name, name, name)
        add_flow(BROWSER, ref, Ending.DECISION_PENDING, account, pending_grant_sealed=sealed_grant(ref, identity))


def _sign_people_in(world: World) -> None:
    """Let three customers in; one of them is left without an account, since another person took it over."""
    for role, name in (("customer", "active"), ("customer of one", "only"), ("customer of none", "taken")):
        add_flow(BROWSER, f"sign-in-{name}", Ending.CONNECTED, world.accounts[name])
        flow = find_flow(f"sign-in-{name}", BROWSER)
        session_id = sign_in_person(flow) if flow else None
        assert session_id is not None
        world.cookies["app", role] = {"browser": BROWSER, "person": session_id}
    world.cookies["app", "returning"] = {"browser": BROWSER}
    with write_transaction() as session:
        taken = update(Account).where(Account.id == world.accounts["taken"])
        session.execute(taken.values(keap_user_id="somebody else"))


def _sign_admins_in(world: World) -> None:
    """Let in a viewer, an admin with a second factor and one who sets it up; stop one at the second step."""
    admins = {
        name: create_admin(f"{name}@example.com", ADMIN_PASSWORD, role=Role.VIEWER if name == "viewer" else Role.ADMIN)
        for name in ("viewer", "secured", "enrolling")
    }
    for name, admin in admins.items():
        assert admin is not None
        if name != "viewer":
            prepare(admin)
        browsers = [HOSTILE, None, "Firefox on Windows"]
        world.cookies["app", name] = {"admin": [sign_in_admin(admin, "192.0.2.1", one) for one in browsers][-1]}
    secured, enrolling = admins["secured"], admins["enrolling"]
    assert secured is not None
    assert enrolling is not None
    with write_transaction() as session:
        session.execute(update(Admin).where(Admin.id == secured.id).values(totp_on_at=utc_now()))
        session.add(RecoveryCode(code_hash=hash_secret(RECOVERY_CODE), admin_id=secured.id))
    world.cookies["app", "at the second step"] = {"second-step": begin_second_step(secured)}
    with write_transaction() as session:  # so it is still waiting when its turn comes
        session.execute(update(OneTimeToken).values(expires_at=utc_now() + HOUR))


def _send_mails(world: World) -> None:
    """Write mails with every result; the last one has failed."""
    now, account_id = utc_now(), world.accounts["hostile"]
    results = [("sent", "250 2.0.0 Ok: queued"), ("cancelled", "The alarm has ended."), ("waiting", HOSTILE)]
    with write_transaction() as session:
        for number, (status, answer) in enumerate([*results, ("given_up", LONG)]):
            mail = new_mail(f"{number}.{'a.long.name' * 3}@example.com", RECONNECT, {}, now, account_id=account_id)
            mail.status, mail.answer, mail.tried_at = status, answer, now
            session.add(mail)


def _make_jobs(world: World) -> None:
    """Make a check that waits and an import that is over, of more lines than a page shows, with odd ones first."""
    known = {"tenant_id": "ab101", "kind": "oauth", "updates": None}
    usual = dict.fromkeys(("business_name", "person", "label", "external_id"), "Blue Door Bakery")
    odd = dict.fromkeys(usual, LONG) | {"tenant_id": "x" * 120}
    details = [odd, dict.fromkeys(usual, HOSTILE), *[usual] * MOST_SHOWN]
    problem = {"column": "external_id", "problem": "Use letters from A to Z, digits and . _ : - only, without spaces."}
    with write_transaction() as session:
        for kind in (JobKind.IMPORT, JobKind.IMPORT_CHECK):
            items = {number: NewItem({"kind": "oauth"}, known | one) for number, one in enumerate(details, 2)}
            items |= {number: NewItem(None, problem) for number in range(len(items) + 2, len(items) + MOST_SHOWN + 10)}
            make_job(session, kind, ADMIN_EMAIL, items)
        over = update(JobItem).where(JobItem.job_id == 1, JobItem.outcome.is_(None))
        session.execute(over.values(outcome=ItemOutcome.DONE, work_sealed=None))
        session.execute(update(Job).where(Job.id == 1).values(finished_at=utc_now()))
        session.execute(update(Job).where(Job.id == 2).values(trouble=LONG))
    ids = [int(world.accounts[name]) for name in ("hostile", "long", "active")]
    start_bulk(JobKind.LINKS, ADMIN_EMAIL, 3, ids=ids)
    start_bulk(JobKind.REFRESH, ADMIN_EMAIL, 1234, matching={"text": "", "state": ""})
    with write_transaction() as session:
        ends = (ItemOutcome.DONE, ItemOutcome.REFUSED, ItemOutcome.REFUSED)
        for item, outcome in zip(session.query(JobItem).where(JobItem.job_id == 3), ends, strict=True):
            item.outcome, item.work_sealed, item.details = outcome, None, {"problem": HOSTILE, "key": "made up"}
        session.execute(update(Job).where(Job.id == 3).values(finished_at=utc_now()))


def _make_webhooks(world: World) -> None:
    """Add a webhook with a message in each state, and one that was switched off."""
    add_endpoint(f"https://{LONG[:60].replace(' ', '-')}.example.com/{'x' * 300}", HOSTILE, None, LONG)
    add_endpoint("https://example.com/", "CRM", ["account.at_risk", "account.reconnect_required"], ADMIN_EMAIL)
    change_endpoint(1, ADMIN_EMAIL, {"rotate_secret": True})
    account_id, now = int(world.accounts["active"]), utc_now()
    ends = {"waiting": None, "sent": now, "given_up": now, "cancelled": now}
    with write_transaction() as session:
        for status, finished_at in ends.items():
            record(session, EventKind.AT_RISK, account_id, Actor.SYSTEM, why="", cause="unused", deadline=str(now))
            row = session.scalars(select(Delivery).order_by(Delivery.id.desc()).limit(1)).one()
            row.status, row.finished_at, row.answer, row.attempts, row.tried_at = status, finished_at, LONG, 3, now
        session.add_all([Delivery(**_values_of(row), message_id=f"msg_{number}") for number in range(50)])
        switched_off = session.get_one(WebhookEndpoint, 2)
        switched_off.failing_since = now
        switch_off(session, switched_off, Actor.SYSTEM, "It answered 410 Gone.")


def _invite(world: World) -> None:
    """Make more invitations than a page shows; the first one waits for a confirmation, and has hostile names."""
    wanted = [
        NewInvitation(HOSTILE, "crm:1", expected_tenant_id="ab101", return_url="https://example.com/"),
        NewInvitation(LONG, "x" * 121, f"{'a.long.name' * 3}@example.com", LONG, "https://example.com/"),
        NewInvitation("Bright Dental", return_url="https://example.com/"),
        *[NewInvitation("Blue Door Bakery", email="tom@example.com")] * 50,
    ]
    with write_transaction() as session:
        made = [add_invitation(session, one, ADMIN_EMAIL).row for one in wanted]
        for row, (state, token) in zip(made, INVITATIONS.items(), strict=False):
            row.state, row.token_hash = state, hash_secret(token)
        made[2].account_id = int(world.accounts["active"])
    grant = sealed_grant("invited", Identity("cd456", "other", HOSTILE, HOSTILE, LONG))
    waits = {"pending_grant_sealed": grant, "pending_until": utc_now() + HOUR, "invitation_id": 1}
    add_flow(BROWSER, "invited", Ending.CONFIRMATION_PENDING, **waits)


def _values_of(row: Delivery) -> dict[str, object]:
    names = [name for name in Delivery.__mapper__.columns.keys() if name not in {"id", "message_id"}]  # noqa: SIM118
    return {name: getattr(row, name) for name in names} | {"recipient": "1"}


def _throttle() -> None:
    """Fail so often with one e-mail address that the next try is refused, from an address of nobody else."""
    with suppress(TooManyAttempts):
        for _ in range(ATTEMPTS_PER_EMAIL + 1):
            verify_password(THROTTLED_EMAIL, "not the password", "192.0.2.1")


def _trouble_the_worker() -> None:
    """Let a worker pause, and an alarm pause refreshing."""
    now = utc_now()
    add_worker(paused_until=now + HOUR, pause_reason=HOSTILE)
    with write_transaction() as session:
        session.add(Alarm(name="client_refused", raised_at=now, reason=f"{HOSTILE} {LONG}"))

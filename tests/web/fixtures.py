"""An app without a socket, and the people who stand before its door, for tests/web and tests/access."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy
from flask import Flask
from requests.cookies import RequestsCookieJar

from keap_connect.access.admins import create_admin
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.clock import utc_now
from keap_connect.connect.invitations import NewInvitation, add_invitation
from keap_connect.connect.reconnect_links import LINK_LIFE
from keap_connect.database import db, write_transaction
from keap_connect.jobs.imports import start_import
from keap_connect.models import InvitationState, OneTimeToken, ReconnectLink, Role, TokenPurpose
from keap_connect.notifications.endpoints import add_endpoint, send_test
from keap_connect.settings import Settings
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.quick_apps import make_app
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import visit
from tests.web.inventory import LINK_TOKEN, PASSWORD_TICKET
from tests.web.kept_rows import keep_rows, list_filled, put_rows

VIEWER_EMAIL = "viewer@example.com"


@pytest.fixture
def environ(environ: dict[str, str], request: pytest.FixtureRequest) -> dict[str, str]:
    """Give the environment of the app; a test changes it by an indirect parameter."""
    return {**environ, **getattr(request, "param", {})}


@pytest.fixture
def new_app(settings: Settings) -> Iterator[Callable[[], Flask]]:
    """Give the function that builds another instance of the app on the same database."""
    built: list[Flask] = []

    def build() -> Flask:
        built.append(make_app(settings))
        return built[-1]

    yield build
    for app in built:
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def app(new_app: Callable[[], Flask]) -> Flask:
    """Give the app; it listens nowhere, its visitors come in directly."""
    return new_app()


@pytest.fixture
def new_visitor(app: Flask, sandbox: Sandbox) -> Callable[[], Visitor]:
    """Give the function that makes another person with another browser."""
    return lambda: visit(app, sandbox)


@dataclass
class World:
    """Two customers, an admin, a viewer and a stranger; the first customer has chosen another tenant than her own."""

    app: Flask
    admin: Visitor
    viewer: Visitor
    customer: Visitor
    foreign_customer: Visitor
    anonymous: Visitor
    account_id: int
    foreign_account_id: int
    held_ref: str

    def visitor(self, who: str) -> Visitor:
        """Return a person by the name of their role."""
        return {
            "anonymous": self.anonymous,
            "customer": self.customer,
            "foreign customer": self.foreign_customer,
            "admin": self.admin,
            "viewer": self.viewer,
        }[who]


@dataclass(frozen=True)
class KeptWorld:
    """What the app and the sandbox stored for a world, and the cookies of its people."""

    made_at: float
    held_ref: str
    filled: set[str]
    app_rows: Path
    sandbox_rows: Path
    cookies: dict[str, RequestsCookieJar]


PEOPLE = ("customer", "foreign_customer", "admin", "viewer", "anonymous")
KEPT_SECONDS = 300  # so that nothing in it has expired
_kept: list[KeptWorld] = []


@pytest.fixture
def world(
    app: Flask,
    new_visitor: Callable[[], Visitor],
    sandbox: Sandbox,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    """Give the people, each with what they got by their own clicks; most tests get what others clicked for them."""
    people = {name: new_visitor() for name in PEOPLE}
    url = sqlalchemy.make_url(app.extensions["keap_connect"].settings.database_url)
    is_usual = url.get_backend_name() == "sqlite" and "environ" not in request.node.callspec.params
    if not is_usual:
        return _world_of(app, people, _let_them_click(app, people))
    database = Path(str(url.database))
    if not _kept or time.monotonic() - _kept[-1].made_at > KEPT_SECONDS:
        made_at, before = time.monotonic(), list_filled(database)
        held_ref = _let_them_click(app, people)
        folder = tmp_path_factory.mktemp("kept-world")
        keep_rows(database, folder / "app.db")
        keep_rows(sandbox.store, folder / "sandbox.db")
        cookies = {name: person.session.cookies.copy() for name, person in people.items()}
        filled = list_filled(database) - before
        _kept.append(KeptWorld(made_at, held_ref, filled, folder / "app.db", folder / "sandbox.db", cookies))
        return _world_of(app, people, held_ref)
    kept = _kept[-1]
    put_rows(kept.app_rows, database, kept.filled)
    put_rows(kept.sandbox_rows, sandbox.store, list_filled(kept.sandbox_rows))
    for name, person in people.items():
        person.session.cookies.update(kept.cookies[name])
    return _world_of(app, people, kept.held_ref)


def _world_of(app: Flask, people: dict[str, Visitor], held_ref: str) -> World:
    return World(app=app, account_id=1, foreign_account_id=2, held_ref=held_ref, **people)


def _let_them_click(app: Flask, people: dict[str, Visitor]) -> str:
    """Let each of them get what they have; return the ref of the flow that waits for a decision."""
    customer = people["customer"]
    customer.connect()
    people["foreign_customer"].connect(person="cleo.marsh@example.com", tenant="ef789")
    held = customer.reconnect(1, tenant="cd456")
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
        create_admin(VIEWER_EMAIL, ADMIN_PASSWORD, role=Role.VIEWER)
        _add_links(1)
        issue_api_key("a key", list(Scope), ADMIN_EMAIL)
        file = b"kind,access_token\npersonal_access_token,KeapAK-of-a-job\nnonsense,x\n"
        start_import(file, ADMIN_EMAIL, only_checks=True)  # no worker does it
        add_endpoint("https://example.com/canary-path", None, None, ADMIN_EMAIL)
        send_test(1)
    people["admin"].sign_in(ADMIN_EMAIL, ADMIN_PASSWORD, follow=False)
    people["viewer"].sign_in(VIEWER_EMAIL, ADMIN_PASSWORD, follow=False)
    return held.url.rpartition("/")[2]


def _add_links(account_id: int) -> None:
    """Store a reconnect link, an invitation, and a link to choose a password, whose secrets are known."""
    now, link_hash = utc_now(), hashlib.sha256(LINK_TOKEN.encode()).hexdigest()
    with write_transaction() as session:
        invitation = add_invitation(session, NewInvitation(label="Cedar", external_id="crm:7"), ADMIN_EMAIL).row
        invitation.token_hash, invitation.state = link_hash, InvitationState.OPENED
        session.add(
            ReconnectLink(
                account_id=account_id,
                token_hash=link_hash,
                made_by=ADMIN_EMAIL,
                made_at=now,
                expires_at=now + LINK_LIFE,
            )
        )
        session.add(
            OneTimeToken(
                token_hash=hashlib.sha256(PASSWORD_TICKET.encode()).hexdigest(),
                purpose=TokenPurpose.NEW_PASSWORD,
                admin_id=1,
                expires_at=now + LINK_LIFE,
            )
        )

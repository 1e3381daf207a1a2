"""An app without a socket, and the people who stand before its door, for tests/web and tests/access."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from flask import Flask

from keap_connect.access.admins import create_admin
from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.connect.invitations import NewInvitation, add_invitation
from keap_connect.connect.reconnect_links import LINK_LIFE
from keap_connect.database import db, write_transaction
from keap_connect.jobs.imports import start_import
from keap_connect.models import InvitationState, OneTimeToken, ReconnectLink, Role, TokenPurpose
from keap_connect.notifications.endpoints import add_endpoint, send_test
from keap_connect.settings import Settings
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor
from tests.web.direct import visit
from tests.web.inventory import LINK_TOKEN, PASSWORD_TICKET

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
        built.append(create_app(settings))
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


@pytest.fixture
def world(app: Flask, new_visitor: Callable[[], Visitor]) -> World:
    """Give the people, each with what they got by their own clicks."""
    customer, foreign_customer, admin, viewer = new_visitor(), new_visitor(), new_visitor(), new_visitor()
    customer.connect()
    foreign_customer.connect(person="cleo.marsh@example.com", tenant="ef789")
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
    admin.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD, follow=False)
    viewer.sign_in(VIEWER_EMAIL, ADMIN_PASSWORD, follow=False)
    return World(
        app=app,
        admin=admin,
        viewer=viewer,
        customer=customer,
        foreign_customer=foreign_customer,
        anonymous=new_visitor(),
        account_id=1,
        foreign_account_id=2,
        held_ref=held.url.rpartition("/")[2],
    )


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

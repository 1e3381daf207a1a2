"""What the tests of sign-in share with those of the pages: an app without a socket, and visitors at any address."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from flask import Flask

from keap_connect.access.admins import create_admin
from keap_connect.access.passwords import issue_password_link
from tests.conftest import ADMIN_EMAIL, ADMIN_PASSWORD
from tests.web.fixtures import app, environ, new_app, new_visitor, world  # noqa: F401


@pytest.fixture
def password_link(app: Flask) -> Callable[[], str]:  # noqa: F811
    """Give the function that makes the path of a link by which the admin chooses a new password."""

    def issue() -> str:
        with app.app_context():
            return urlsplit(issue_password_link(ADMIN_EMAIL, "command line")).path

    return issue


@pytest.fixture
def other_admin(app: Flask) -> str:  # noqa: F811
    """Give the e-mail address of a second admin."""
    with app.app_context():
        create_admin("other@example.com", ADMIN_PASSWORD)
    return "other@example.com"


@pytest.fixture
def in_parallel() -> Callable[..., list[object]]:
    """Give the function that calls another one for several values at once."""

    def call(function: Callable[[object], object], values: list[object]) -> list[object]:
        with ThreadPoolExecutor(max_workers=len(values)) as pool:
            return list(pool.map(function, values))

    return call

"""Programs with keys, for the tests of the token API."""

from collections.abc import Callable

import pytest
import requests
from flask import Flask

from keap_connect.access.api_keys import Scope, issue_api_key
from tests.accounts.granted import store_account
from tests.support.sandbox import Sandbox
from tests.web.direct import Direct


class Program:
    """A program that calls the API with its key; `key` may be any text, or None."""

    def __init__(self, app: Flask, key: str | None, address: str = "127.0.0.1") -> None:
        self.app = app
        self.base_url = app.extensions["keap_connect"].settings.public_url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount(self.base_url, Direct(app, address))
        if key is not None:
            self.session.headers["Authorization"] = f"Bearer {key}"

    def call(self, method: str, path: str, **options: object) -> requests.Response:
        """Send a request; redirects are not followed."""
        return self.session.request(method, self.base_url + path, allow_redirects=False, **options)

    def get(self, path: str, **options: object) -> requests.Response:
        return self.call("GET", path, **options)

    def post(self, path: str, json: object = None, **options: object) -> requests.Response:
        return self.call("POST", path, json=json, **options)


NewProgram = Callable[..., Program]


@pytest.fixture
def new_program(app: Flask) -> NewProgram:
    """Give the function that makes a program with a key of its own."""

    def make(*scopes: str, account_ids: list[int] | None = None, address: str = "127.0.0.1") -> Program:
        with app.app_context():
            issued = issue_api_key("job", scopes or list(Scope), "command line", account_ids=account_ids)
        return Program(app, issued.text, address)

    return make


@pytest.fixture
def program(new_program: NewProgram) -> Program:
    """Give a program that may do everything."""
    return new_program()


@pytest.fixture
def account_id(app: Flask, sandbox: Sandbox) -> int:
    """Give a connected account."""
    with app.app_context():
        return store_account(sandbox)

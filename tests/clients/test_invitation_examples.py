"""The back end of docs/invitations.md sends a customer on the way, and its commands confirm who connected."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
from flask import Flask

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.connect.invitations import NewInvitation, get_invitation, make_invitation
from keap_connect.models import InvitationState
from tests.support.engines import on_sqlite
from tests.support.visitor import Visitor

TEXT = (Path(__file__).parents[2] / "docs" / "invitations.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S))


@pytest.fixture
def environ(environ: dict[str, str]) -> dict[str, str]:
    return {**environ, "RETURN_ORIGINS": "https://app.example.com"}


@pytest.fixture
def example(app: Flask, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Give the function that returns an example with the address of this test; the environment has a key."""
    with app.app_context():
        key = issue_api_key("back end", [Scope.ACCOUNTS_READ, Scope.ACCOUNTS_WRITE], "a test").text
    monkeypatch.setenv("KEAP_CONNECT_KEY", key)
    return lambda language: BLOCKS[language].replace("https://connect.example.com", environ["PUBLIC_URL"])


def test_each_example_has_its_test_and_each_state_its_line():
    assert set(BLOCKS) == {"python", "sh"}
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.M) == [one.value for one in InvitationState]


@on_sqlite
def test_the_back_end_invites_a_customer_and_asks_what_is_true(example: Callable[[str], str], visitor: Visitor):
    back_end = ModuleType("back_end")
    exec(example("python"), back_end.__dict__)
    client = back_end.app.test_client()

    link = client.post("/customers/crm:7/connect-keap").headers["Location"]
    before = client.get("/keap-connected?invitation=1").text
    path = urlsplit(link).path
    visitor.connect(action=path, page=path)
    (back,) = re.findall(r'href="https://app.example.com(/[^"]*)"', visitor.page.text)

    assert before == "Your Keap account is not connected yet."
    assert back == "/keap-connected?invitation=1"
    assert client.get(back).text == "Customer crm:7 is connected as account 1."


@on_sqlite
@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_the_commands_show_and_confirm_who_connected(example: Callable[[str], str], app: Flask, visitor: Visitor):
    with app.app_context():
        path = urlsplit(make_invitation(NewInvitation(needs_confirmation=True), "x").url).path
    visitor.connect(action=path, page=path)

    done = subprocess.run(
        ["sh", "-e"], input=example("sh"), capture_output=True, text=True, env=os.environ, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert '"person_email": "ann.lee@example.com"' in done.stdout.replace('":"', '": "')
    with app.app_context():
        assert get_invitation(1).state == "connected"

"""PKCE is ignored, as far as anybody knows of Keap, unless the switch is on (RFC 7636)."""

import base64
import hashlib

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import Sandbox

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def code(client: Client, sandbox: Sandbox) -> str:
    sandbox.switch(pkce=True)
    return client.consent(code_challenge=CHALLENGE, code_challenge_method="S256")["code"]


def test_right_verifier_gets_the_pair(client: Client, code: str):
    assert client.exchange(code, code_verifier=VERIFIER).status_code == 200


@pytest.mark.parametrize("verifier", ["w" * 43, None])
def test_wrong_or_missing_verifier_is_refused(client: Client, code: str, verifier: str | None):
    assert client.exchange(code, code_verifier=verifier).status_code == 400
    assert client.exchange(code, code_verifier=VERIFIER).status_code == 200


def test_plain_challenge_is_refused(client: Client, sandbox: Sandbox):
    sandbox.switch(pkce=True)

    assert client.consent(code_challenge="x" * 43, code_challenge_method="plain")["error"] == "invalid_request"


def test_no_challenge_needs_no_verifier(client: Client, sandbox: Sandbox):
    sandbox.switch(pkce=True)

    assert client.exchange(client.consent()["code"]).status_code == 200

"""Every receiver in docs/webhooks.md takes a message as it is sent, and refuses one that was changed."""

import json
import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
from flask import Flask

from keap_connect.accounts.credentials import new_account
from keap_connect.accounts.state import Cause
from keap_connect.clock import utc_now
from keap_connect.database import write_transaction
from keap_connect.events.history import ANNOUNCED, Actor, EventKind, record
from keap_connect.notifications.endpoints import add_endpoint, send_test
from keap_connect.notifications.sender import WAITS, Sender
from keap_connect.notifications.webhooks import CHANNEL
from keap_connect.refresh.alarms import ADVICE
from tests.keap.raw_server import RawServer, answering, http
from tests.support.engines import on_sqlite
from tests.support.oidc_provider import NODE

TEXT = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S))
Message = tuple[str, dict[str, str], bytes]


@pytest.fixture
def environ(environ: dict[str, str]) -> dict[str, str]:
    return {**environ, "WEBHOOK_PRIVATE_TARGETS": "on"}


@pytest.fixture
def message(app: Flask) -> Message:
    """Give the secret, and headers and body of a message as they were sent."""
    with app.app_context(), RawServer(answering(http(b""))) as server:
        secret = add_endpoint(f"{server.url}/hooks/keap", None, None, "x").secret or ""
        send_test(1)
        Sender(app, [CHANNEL]).send_due()
        _, headers, body = _parts(server.requests[0].decode())
    return secret, headers, body.encode()


def test_each_language_has_its_test():
    assert set(BLOCKS) == {"", "python", "php", "js"}


@on_sqlite
@pytest.mark.proves("R80", "R83")
def test_the_sample_is_a_message_as_it_is_sent(app: Flask):
    with app.app_context(), RawServer(answering(http(b""))) as server:
        add_endpoint(f"{server.url}/hooks/keap", None, None, "x")
        with write_transaction() as session:
            account = new_account(session, "ab123", "1")
            account.external_id = "acme"
            details = {"cause": Cause.REFUSED, "deadline": None}
            record(session, EventKind.RECONNECT_REQUIRED, account.id, Actor.SYSTEM, **details)
        Sender(app, [CHANNEL]).send_due()
        first, headers, body = _parts(server.requests[0].decode())
    shown_first, shown_headers, shown_body = _parts(BLOCKS[""].replace("\n", "\r\n"))
    sent, shown = json.loads(body), json.loads(shown_body)

    assert first == f"{shown_first} HTTP/1.1"
    assert set(headers) - {"host", "accept", "content-length"} == set(shown_headers)
    assert (headers["content-type"], headers["user-agent"]) == ("application/json", "keap-connect")
    for message in (sent, shown):
        assert datetime.fromisoformat(message.pop("timestamp")).tzinfo
        message["data"]["url"] = urlsplit(message["data"]["url"]).path
    assert sent == {**shown, "data": {**shown["data"], "event_id": 2, "account_id": 1, "url": "/reconnect/1"}}
    assert shown["data"]["url"] == f"/reconnect/{shown['data']['account_id']}"


def _parts(request: str) -> tuple[str, dict[str, str], str]:
    head, _, body = request.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return first, {name.lower(): value for name, _, value in pairs}, body


@on_sqlite
@pytest.mark.proves("R80")
def test_the_receiver_in_python(message: Message, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    secret, headers, body = message
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    receiver = ModuleType("receiver")
    exec(BLOCKS["python"], receiver.__dict__)
    client = receiver.app.test_client()

    statuses = [
        client.post("/hooks/keap", data=data, headers=headers).status_code for data in (body, body, body + b" ")
    ]

    assert statuses == [204, 204, 400]
    assert capsys.readouterr().out == "webhook.test None\n"


@on_sqlite
@pytest.mark.proves("R80")
@pytest.mark.skipif(not shutil.which("php"), reason="there is no PHP here: install php-cli")
def test_the_function_in_php(message: Message, tmp_path: Path):
    (tmp_path / "verify.php").write_text(BLOCKS["php"])
    call = (
        "require 'verify.php'; [$b, $h, $s] = json_decode(stream_get_contents(STDIN), true); "
        "echo verifyWebhook($b, $h, $s)['type'];"
    )

    _check(["php", "-r", call], message, tmp_path)


@on_sqlite
@pytest.mark.proves("R80")
def test_the_function_in_node(message: Message, tmp_path: Path):
    call = (
        "import { readFileSync } from 'node:fs';\nconst [b, h, s] = JSON.parse(readFileSync(0, 'utf8'));\n"
        "process.stdout.write(verifyWebhook(b, h, s).type);"
    )
    (tmp_path / "verify.mjs").write_text(f"{BLOCKS['js']}\n{call}\n")

    _check([str(NODE), "verify.mjs"], message, tmp_path)


def _check(command: list[str], message: Message, folder: Path) -> None:
    """Let the program verify a message, a changed one, an old one, and one of another secret."""
    secret, headers, body = message
    old = {**headers, "webhook-timestamp": str(int(utc_now().timestamp()) - 400)}
    both = {**headers, "webhook-signature": f"v1,AAAA {headers['webhook-signature']}"}
    another = f"whsec_{'A' * 43}="
    given = [(body, headers, secret), (body, both, secret)]
    given += [(body + b" ", headers, secret), (body, old, secret), (body, headers, another)]
    printed = [
        subprocess.run(
            command,
            input=json.dumps([data.decode(), names, key]),
            capture_output=True,
            text=True,
            cwd=folder,
            env={"PATH": os.environ["PATH"]},
            timeout=60,
            check=False,
        )
        for data, names, key in given
    ]

    assert [one.stdout for one in printed] == ["webhook.test"] * 2 + [""] * 3
    assert [one.returncode == 0 for one in printed] == [True] * 2 + [False] * 3


def test_the_page_names_each_type_each_reason_and_the_schedule():
    table = dict(re.findall(r"^\| `([\w.]+)` \| .*? \|(.*)\|$", TEXT, re.M))

    assert set(table) == {*ANNOUNCED, "webhook.test"}
    causes = set(re.findall(r"`(\w+)`", table["account.at_risk"] + table["account.reconnect_required"]))
    assert causes == {cause.value for cause in Cause}
    assert set(re.findall(r"`(\w+)`", table["refreshing.paused"])) == set(ADVICE)
    assert (5, *(60 * one for one in (5, 30)), *(3600 * one for one in (2, 5, 10, 14)), 58_800) == WAITS

"""The program itself: start, restart with everything, and clear words when it cannot start."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.client import Client
from tests.support.sandbox import REPOSITORY, Sandbox


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sandbox]:
    """Give a sandbox that only this test uses."""
    with Sandbox.start(tmp_path / "own.db") as sandbox:
        yield sandbox


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_restart_keeps_everything(own: Sandbox, with_signal: signal.Signals):
    client = Client(own)
    own.advance(1000)
    own.switch(refresh_wording="invalid_grant")
    own.rename("ij345", "Kept")
    own.add_app("other", "secret", ["https://example.com/"])
    code = client.consent()["code"]
    used, live = own.grant(count=2)
    client.refresh(used["refresh_token"])
    own.fault("json_500", "refresh", calls=[2])
    client.refresh("unknown")
    before, ledger = own.state(), own.ledger()
    browser = own.signed_in()

    own.restart(with_signal)

    assert own.state() | {"now": ""} == before | {"now": ""}
    assert own.ledger() == ledger
    assert client.refresh(live["refresh_token"]).status_code == 500
    assert client.refresh(live["refresh_token"]).status_code == 200
    assert client.refresh(used["refresh_token"]).json()["error"] == "invalid_grant"
    assert client.exchange(code).status_code == 200
    with browser:
        assert browser.get(client.authorization_url(), allow_redirects=False, timeout=10).status_code == 200


def test_term_ends_it_cleanly(tmp_path: Path):
    assert Sandbox.start(tmp_path / "own.db").stop() == 0


def test_mode_of_the_command_line_survives_a_reset(tmp_path: Path):
    with Sandbox.start(tmp_path / "own.db", "--redirect-uri-mode", "strict-https") as sandbox:
        sandbox.switch(redirect_uri_mode="allow-localhost")
        sandbox.reset()

        assert sandbox.state()["switches"]["redirect_uri_mode"] == "strict-https"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "keap_connect.sandbox", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False)


def test_taken_port_is_told_in_one_sentence(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run("--port", port, "--store", str(tmp_path / "own.db"))

    assert ended.returncode == 1
    assert ended.stderr == f"The sandbox cannot listen on 127.0.0.1:{port}: Address already in use.\n"


@pytest.mark.parametrize(
    ("option", "said"),
    [("--port=99999", "127.0.0.1:99999: bind(): port must be 0-65535.\n"), ("--host=no..name", "no..name:5001: ")],
)
def test_address_that_cannot_be_is_told_in_one_sentence(tmp_path: Path, option: str, said: str):
    ended = run(option, "--store", str(tmp_path / "own.db"))

    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith(f"The sandbox cannot listen on {said}")


@pytest.mark.parametrize("make", ["folder", "text"])
def test_unusable_store_is_told_in_one_sentence(tmp_path: Path, make: str):
    store = tmp_path / "store"
    if make == "folder":
        store.mkdir()
    else:
        store.write_text("This is no database, and long enough to be seen as something else. " * 20)

    ended = run("--port", "0", "--store", str(store))

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"The sandbox cannot use the store {store}: ")
    assert ended.stderr.count("\n") == 1


def test_sandbox_imports_nothing_of_the_app(tmp_path: Path):
    program = (
        "import sys, keap_connect.sandbox.__main__; "
        "print([m for m in sys.modules if m.startswith('keap_connect') and 'sandbox' not in m])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True
    )

    assert ended.stdout == "['keap_connect']\n"

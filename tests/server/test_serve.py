"""One sentence says what keeps the server from listening; a server that listens goes on reporting itself."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from flask import Flask

from keap_connect.errors import SettingsError
from keap_connect.server import serve
from keap_connect.server.serve import check_address, check_certificate


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Give a certificate and its key."""
    issued = trustme.CA().issue_cert("localhost")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return certificate, key


def test_an_address_where_another_program_listens_is_refused():
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"HOST 127.0.0.1 and PORT {port} cannot be used"):
            check_address("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(SettingsError, match=r"HOST 192\.0\.2\.1"):
        check_address("192.0.2.1", 5000)


def test_a_certificate_with_its_key_is_taken(files: tuple[Path, Path]):
    check_certificate(*files)


@pytest.mark.parametrize("trouble", ["foreign key", "no certificate", "the wrong way round"])
def test_a_certificate_that_cannot_be_used_is_refused(files: tuple[Path, Path], trouble: str):
    certificate, key = files
    if trouble == "foreign key":
        trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(key)
    elif trouble == "no certificate":
        certificate.write_text("nothing")
    else:
        certificate, key = key, certificate

    with pytest.raises(SettingsError, match="cannot be used"):
        check_certificate(certificate, key)


def test_a_server_reports_itself_while_the_storing_of_kept_pairs_hangs(monkeypatch: pytest.MonkeyPatch):
    hangs, reports = threading.Event(), threading.Semaphore(0)

    async def report_three_times() -> None:
        reporting = asyncio.create_task(serve.keep_reporting(Flask("app")))
        arrived = [await asyncio.to_thread(reports.acquire, timeout=20) for _ in range(3)]
        hangs.set()
        reporting.cancel()
        await reporting
        assert arrived == [True] * 3

    monkeypatch.setattr(serve, "replay", lambda: hangs.wait(60))
    monkeypatch.setattr(serve, "beat_as_server", reports.release)
    monkeypatch.setattr(serve, "retire", lambda _name: None)
    monkeypatch.setattr(serve, "REPORT_SECONDS", 0.0)
    with ThreadPoolExecutor(1) as thread:  # the tests in a browser may have left a loop in this one
        thread.submit(lambda: asyncio.run(report_three_times())).result()

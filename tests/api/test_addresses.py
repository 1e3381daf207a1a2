"""There are no webhooks, so nobody is called but Keap: an address that comes in, wherever it stands, stays a text."""

import socket
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask

from keap_connect.keap.transport import KeapSession
from tests.api.fixtures import Program
from tests.support.engines import on_sqlite
from tests.support.sandbox import Sandbox
from tests.support.scripted import scripted

pytestmark = on_sqlite
ACCOUNT = "/api/v1/accounts/1"


@pytest.mark.proves("F63")
def test_an_address_that_comes_in_is_called_by_nobody(
    app: Flask, program: Program, sandbox: Sandbox, account_id: int, monkeypatch: pytest.MonkeyPatch
):
    resolved: list[tuple[object, object]] = []
    resolve, send = socket.getaddrinfo, KeapSession.send

    def recording(host: object, port: object, *args: object, **kwargs: object) -> object:
        resolved.append((host, port))
        return resolve(host, port, *args, **kwargs)

    def noting(session: KeapSession, request: requests.PreparedRequest, **options: object) -> requests.Response:
        url = urlsplit(str(request.url))
        resolved.append((url.hostname, url.port))  # libcurl resolves by itself
        return send(session, request, **options)

    with scripted(lambda _: (200, {})) as inside:
        monkeypatch.setattr(socket, "getaddrinfo", recording)
        monkeypatch.setattr(KeapSession, "send", noting)
        metadata, there = "http://169.254.169.254/latest/meta-data", f"{inside.url}/canary"
        for address in (there, metadata, "http://rebinding.example/"):
            headers = {
                "X-Forwarded-Host": address,
                "Forwarded": f"host={address}",
                "Referer": address,
                "Origin": address,
            }
            answers = [
                program.call("PATCH", ACCOUNT, json={"label": address}, headers=headers),
                program.call("PATCH", ACCOUNT, json={"external_id": address.replace("/", ":")}, headers=headers),
                program.post("/api/v1/accounts", {"access_token": address, "label": address}, headers=headers),
                program.get("/api/v1/accounts", params={"q": address}, headers=headers),
                program.get(ACCOUNT, headers={**headers, "Host": address}),
                program.post(f"{ACCOUNT}/refresh", headers={**headers, "Prefer": f"wait=5; url={address}"}),
                program.post(f"{ACCOUNT}/token/rejected", {"fingerprint": address}, headers=headers),
            ]
            assert [answer.status_code for answer in answers] == [200, 200, 409, 200, 400, 200, 400]

    assert inside.asked == []
    assert {f"http://{host}:{port}" for host, port in resolved} == {sandbox.url}

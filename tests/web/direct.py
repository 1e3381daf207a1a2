"""Carries a visitor's requests straight into the app: the same bytes as over a socket, without the socket."""

import email.message
import io
from collections.abc import Mapping
from types import SimpleNamespace
from urllib.parse import unquote_to_bytes, urlsplit

import requests
import urllib3
from flask import Flask
from requests.adapters import BaseAdapter
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict

from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor


class Direct(BaseAdapter):
    """A transport for `requests` that ends in a WSGI app."""

    def __init__(self, app: Flask, address: str = "127.0.0.1") -> None:
        super().__init__()
        self._client = app.test_client(use_cookies=False)
        self._address = address

    def send(self, request: requests.PreparedRequest, **_options: object) -> requests.Response:
        """Hand a request over and return the answer, its cookies included."""
        url = urlsplit(request.url)
        # As a server does it; the test client would take a path of two slashes for a host name.
        path_info = unquote_to_bytes(url.path or "/").decode("latin-1")
        answered = self._client.open(
            query_string=url.query,
            base_url=f"{url.scheme}://{url.netloc}",
            method=request.method,
            headers=list(request.headers.items()),
            data=request.body,
            environ_overrides={"REMOTE_ADDR": self._address, "PATH_INFO": path_info},
            buffered=True,
        )
        fields = email.message.Message()
        for name, value in answered.headers:
            fields[name] = value
        response = requests.Response()
        response.status_code = answered.status_code
        response.headers = CaseInsensitiveDict(answered.headers.items())
        response.encoding = answered.mimetype_params.get("charset")
        response.url = request.url
        response.request = request
        response.raw = urllib3.HTTPResponse(
            body=io.BytesIO(answered.data),
            headers=answered.headers,
            preload_content=False,
            original_response=SimpleNamespace(msg=fields, isclosed=lambda: True, close=lambda: None),
        )
        response._content = answered.data
        extract_cookies_to_jar(response.cookies, request, response.raw)
        return response

    def close(self) -> None:
        """Nothing is open."""


def visit(app: Flask, sandbox: Sandbox | None = None, address: str = "127.0.0.1") -> Visitor:
    """Return a person with another browser, at a network address of their own."""
    public_url = app.extensions["keap_connect"].settings.public_url
    visitor = Visitor(public_url, sandbox)
    visitor.session.mount(public_url, Direct(app, address))
    return visitor


def move(visitor: Visitor, app: Flask, address: str) -> None:
    """Let a browser come from another network address from now on."""
    visitor.session.mount(visitor.base_url, Direct(app, address))


def send(
    visitor: Visitor, method: str, path: str, headers: Mapping[str, str] | None = None, **options: object
) -> requests.Response:
    """Send any request with the visitor's cookies; redirects are not followed."""
    visitor.page = visitor.session.request(
        method, visitor.base_url + path, headers=headers, allow_redirects=False, **options
    )
    return visitor.page

"""Authorizes calls to Keap made with `httpx`; a 401 of Keap is answered by one fresh token and one more try."""

import asyncio
from collections.abc import AsyncGenerator, Generator

import httpx

from keap_connect_client.cache import CachedToken
from keap_connect_client.hosts import check_goes_to_keap


class HttpxAuth(httpx.Auth):
    """Made by `KeapConnect.httpx_auth`, for `Client` and `AsyncClient` alike.

    Raises, when a request is made:
        NotKeap: the request goes elsewhere.
        KeapConnectError: there is no token now; see `KeapConnect.token`.
    """

    requires_request_body = True  # it may have to be sent twice

    def __init__(self, cached: CachedToken) -> None:
        self._cached = cached

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put a valid token on a request to Keap, and another one on it after a 401."""
        check_goes_to_keap(str(request.url))
        request.read()
        access_token = self._cached.get()
        response = yield _authorized(request, access_token)
        if _is_refused(response, access_token):
            fresh = self._cached.replace(access_token)
            if fresh != access_token:
                yield _authorized(request, fresh)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Do the same, asking Keap Connect in a thread of its own."""
        check_goes_to_keap(str(request.url))
        await request.aread()
        access_token = await asyncio.to_thread(self._cached.get)
        response = yield _authorized(request, access_token)
        if _is_refused(response, access_token):
            fresh = await asyncio.to_thread(self._cached.replace, access_token)
            if fresh != access_token:
                yield _authorized(request, fresh)


def _is_refused(response: httpx.Response, access_token: str) -> bool:
    """Whether the host that answers 401 has seen the token: a redirect to another host takes it off."""
    return response.status_code == 401 and response.request.headers.get("Authorization") == f"Bearer {access_token}"


def _authorized(request: httpx.Request, access_token: str) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {access_token}"
    return request

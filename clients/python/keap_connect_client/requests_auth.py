"""Authorizes calls to Keap made with `requests`; a 401 of Keap is answered by one fresh token and one more try."""

from typing import Any

import requests
from requests.auth import AuthBase

from keap_connect_client.cache import CachedToken
from keap_connect_client.hosts import check_goes_to_keap


class RequestsAuth(AuthBase):
    """Made by `KeapConnect.requests_auth`; one may serve many sessions and threads."""

    def __init__(self, cached: CachedToken) -> None:
        self._cached = cached

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Put a valid token on a request to Keap.

        Raises:
            NotKeap: the request goes elsewhere.
            KeapConnectError: there is no token now; see `KeapConnect.token`.
        """
        check_goes_to_keap(request.url or "")
        access_token = self._cached.get()
        request.headers["Authorization"] = f"Bearer {access_token}"
        body: Any = request.body
        place = body.tell() if hasattr(body, "seek") else None
        can_repeat = body is None or isinstance(body, str | bytes) or place is not None

        def hear(response: requests.Response, **options: Any) -> requests.Response:
            # Where a redirect led to another host, the token was taken off, and its 401 says nothing about it.
            carried = response.request.headers.get("Authorization") == f"Bearer {access_token}"
            if response.status_code != 401 or not carried:
                return response
            fresh = self._cached.replace(access_token)
            if fresh == access_token or not can_repeat:
                return response
            _ = response.content  # read it to its end, so that its connection can be used again
            response.close()
            again = response.request.copy()
            if place is not None:
                body.seek(place)
            again.headers["Authorization"] = f"Bearer {fresh}"
            second: requests.Response = response.connection.send(again, **options)
            second.history.append(response)
            second.request = again
            return second

        request.register_hook("response", hear)
        return request

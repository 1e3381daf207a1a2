"""How requests reach Keap: one hard total deadline, no redirects, a size cap, a fresh connection each call.

The time-outs of `requests` limit single reads, so a server that drips a byte a second is never cut off. Here a
watchdog shuts the socket down at the deadline, whatever is going on: TLS, headers or body.
"""

import logging
import math
import os
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from typing import Any, cast
from urllib.parse import SplitResult, urlencode, urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from requests_oauthlib import OAuth2Session
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, SSLError
from urllib3.response import HTTPResponse

from keap_connect.clock import seconds_since_boot
from keap_connect.settings import LOOPBACK_HOSTS, KeapSettings

log = logging.getLogger(__name__)
DEADLINE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
SIZE_CAP_BYTES = 1_000_000
NAME_HOLDS_SECONDS = 30.0


class NotSent(requests.RequestException):
    """Nothing was written; the text says why."""


class Withheld(NotSent):
    """We held it back ourselves: it must not be sent any more."""


class NoUsableAnswer(requests.RequestException):
    """The answer was too large, or the deadline came before its end."""


class Call:
    """One request to Keap: when it must be over, and whether anything of it was written."""

    def __init__(
        self,
        deadline_seconds: float | None = None,
        must_end_by: float = math.inf,
        may_send: Callable[[], bool] | None = None,
    ) -> None:
        self.ends = seconds_since_boot() + (DEADLINE_SECONDS if deadline_seconds is None else deadline_seconds)
        self.must_end_by = must_end_by
        self.may_send = may_send
        self.sent = False
        self._watched: socket.socket | None = None

    def remaining_seconds(self) -> float:
        """Return the time left; 0.001 once there is none."""
        return max(self.ends - seconds_since_boot(), 0.001)

    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return seconds_since_boot() >= self.ends

    def watch(self, connected: socket.socket) -> None:
        """Shut this connection down at the deadline; a duplicate handle survives the wrapping into TLS."""
        self._watched = connected.dup()
        _watchdog.watch(self)

    def last_look(self) -> None:
        """Check, as the last act before writing, that a process frozen meanwhile does not send too late.

        The whole call must fit between now and `must_end_by`, the end of the lease, on a clock that also counts
        the time a machine was suspended. `may_send` is asked before, since it takes time.
        """
        if self.may_send and not self.may_send():
            raise Withheld("the account had moved on, or the database did not answer")
        if self.is_over() or self.ends > self.must_end_by:
            raise Withheld("the time to send it had passed before it was written")
        self.sent = True

    def close(self) -> None:
        """End the watch."""
        _watchdog.leave(self)
        if self._watched:
            self._watched.close()

    def shut_down(self) -> None:
        """End the connection, whatever it is doing."""
        try:
            if self._watched:
                self._watched.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the connection ended by itself


class _Watchdog:
    """One thread for all calls of the process; it shuts down each that lasts to its deadline."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: set[Call] = set()
        self._looks_at = math.inf
        self._thread: threading.Thread | None = None

    def watch(self, call: Call) -> None:
        with self._changed:
            self._calls.add(call)
            if self._thread is None or not self._thread.is_alive():  # the first call, also after a fork
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()
            elif call.ends < self._looks_at:
                self._changed.notify()

    def leave(self, call: Call) -> None:
        with self._changed:
            self._calls.discard(call)

    def _run(self) -> None:
        with self._changed:
            while True:
                for call in [each for each in self._calls if each.is_over()]:
                    call.shut_down()
                    self._calls.discard(call)
                self._looks_at = min((call.ends for call in self._calls), default=math.inf)
                self._changed.wait(max(self._looks_at - seconds_since_boot(), 0.0) if self._calls else None)


_watchdog = _Watchdog()


_Address = tuple[int, int, int, Any]  # family, kind, protocol and what to connect to
_addresses: dict[tuple[str, int], tuple[list[_Address], float]] = {}


def _look_up(host: str, port: int, seconds: float) -> list[_Address]:
    """Resolve a name within a time limit, which `getaddrinfo` itself does not have; an answer is good for a while."""
    known, until = _addresses.get((host, port), ([], 0.0))
    if seconds_since_boot() < until:
        return known
    answers: queue.Queue[list[_Address] | OSError] = queue.Queue()

    def resolve() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, kind, protocol, address) for family, kind, protocol, _, address in found])
        except OSError as problem:
            answers.put(problem)

    threading.Thread(target=resolve, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer for the name {host}") from None
    if isinstance(answer, OSError):
        raise answer
    _addresses[host, port] = answer, seconds_since_boot() + NAME_HOLDS_SECONDS
    return answer


def _connect(
    address: _Address, seconds: float, options: Sequence[tuple[int, int, int | bytes]] | None
) -> socket.socket:
    connected = socket.socket(*address[:3])
    try:
        for option in options or ():
            connected.setsockopt(*option)
        connected.settimeout(seconds)
        connected.connect(address[3])
    except OSError:
        connected.close()
        raise
    return connected


class _KeapConnection(HTTPConnection):
    """Connects within the deadline, and looks once more before it writes."""

    call: Call

    def _new_conn(self) -> socket.socket:
        try:
            addresses = _look_up(self._dns_host, self.port, self.call.remaining_seconds())
        except TimeoutError as problem:
            raise ConnectTimeoutError(self, str(problem)) from problem
        except socket.gaierror as problem:
            raise NameResolutionError(self.host, self, problem) from problem
        failure: OSError = OSError("no address")
        for address in addresses:
            seconds = min(CONNECT_SECONDS, self.call.remaining_seconds())
            try:
                connected = _connect(address, seconds, self.socket_options)
            except OSError as problem:
                failure = problem
            else:
                self.call.watch(connected)
                connected.settimeout(self.call.remaining_seconds())
                return connected
        _addresses.pop((self._dns_host, self.port), None)  # Keap may have moved
        raise NewConnectionError(self, str(failure)) from failure

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.is_closed:
            self.connect()
        self.call.last_look()
        super().request(*args, **kwargs)


class _KeapTLSConnection(_KeapConnection, HTTPSConnection):
    """The same over TLS."""


class KeapSession(OAuth2Session):
    """Carries the request of one `Call` over a connection of its own, and keeps nothing for later ones.

    It asks for no scope, since oauthlib raises a Warning when Keap answers `full|<tenant>` to `full`. It has no
    cookies, and reads no proxy variables and no `.netrc`, which would replace the client's credentials.
    """

    def __init__(self, keap: KeapSettings, call: Call, token: Mapping[str, str] | None) -> None:
        super().__init__(keap.client_id, redirect_uri=keap.redirect_uri, token=dict(token) if token else None)
        self.call = call
        self.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare it without all that `requests` would merge: none of it may reach Keap, and it takes its time."""
        prepared = requests.PreparedRequest()
        headers = {**self.headers, **(request.headers or {})}
        form = urlencode(cast("Mapping[str, str]", request.data))
        prepared.prepare(
            request.method, request.url, headers, data=form, params=request.params or None, auth=request.auth
        )
        return prepared

    def merge_environment_settings(self, *_: object) -> dict[str, object]:
        """Look at nothing outside."""
        return {}

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:
        """Send, and read the whole answer within deadline and size cap.

        Raises:
            NotSent: the last look said no, or no certificate could be verified.
            NoUsableAnswer: the answer broke off, was too large, or the deadline came before its end.
            TooManyRedirects: the answer was a redirect; none is followed.
            requests.RequestException: there was no connection, or no answer.
        """
        url = urlsplit(str(request.url))
        connection = self._new_connection(url)
        try:
            raw = self._ask(connection, request)
            log.debug("%s %s at %s: %s", request.method, url.path, url.hostname, raw.status)
            response = _as_response(request, raw, self._read(raw))
        finally:
            connection.close()
        if response.is_redirect:
            raise requests.TooManyRedirects("redirects are not followed", response=response)
        return response

    def _new_connection(self, url: SplitResult) -> _KeapConnection:
        connection: _KeapConnection
        if url.scheme == "https":
            try:
                context = _trusting(requests.utils.DEFAULT_CA_BUNDLE_PATH)
            except OSError as problem:
                raise NotSent("the certificate authorities to trust cannot be read") from problem
            connection = _KeapTLSConnection(str(url.hostname), url.port, ssl_context=context)
        else:
            connection = _KeapConnection(str(url.hostname), url.port)
        connection.call = self.call
        return connection

    def _ask(self, connection: _KeapConnection, request: requests.PreparedRequest) -> HTTPResponse:
        try:
            method, url = str(request.method), request.path_url
            connection.request(method, url, request.body, request.headers, preload_content=False)
            connection.timeout = self.call.remaining_seconds()
            return connection.getresponse()
        except requests.RequestException:
            raise  # ours
        except (ssl.SSLError, SSLError) as problem:
            raise requests.exceptions.SSLError(problem, request=request) from problem
        except ConnectTimeoutError as problem:
            raise requests.ConnectTimeout(problem, request=request) from problem
        except TimeoutError as problem:
            raise requests.ReadTimeout(problem, request=request) from problem
        except (HTTPError, HTTPException, OSError) as problem:
            raise requests.ConnectionError(problem, request=request) from problem

    def _read(self, raw: HTTPResponse) -> bytes:
        try:
            body: bytes = raw.read(SIZE_CAP_BYTES + 1, decode_content=True)
        except (HTTPError, OSError, ValueError) as problem:
            raise NoUsableAnswer(f"the answer broke off ({type(problem).__name__})") from problem
        # After a shutdown a body that only the end of the connection ends looks complete: there the clock has the
        # last word. One whose end was told is whole, and a new pair in it must not be lost, however late it is read.
        is_whole = raw.length_remaining == 0 or raw.chunked
        if self.call.is_over() and not is_whole:
            raise NoUsableAnswer("the answer was not complete within the deadline")
        if len(body) > SIZE_CAP_BYTES:
            raise NoUsableAnswer(f"the answer was larger than {SIZE_CAP_BYTES} bytes")
        return body


@cache
def _trusting(authorities: str) -> ssl.SSLContext:
    """Return what verifies a server's certificate and name; to load the authorities takes longer than a request."""
    return ssl.create_default_context(cafile=authorities)


def _as_response(request: requests.PreparedRequest, raw: HTTPResponse, body: bytes) -> requests.Response:
    response = requests.Response()
    response.request, response.url = request, str(request.url)
    response.status_code, response.reason = raw.status, str(raw.reason)
    response.headers = CaseInsensitiveDict(raw.headers)
    response.encoding = requests.utils.get_encoding_from_headers(response.headers)
    response._content = body
    return response


@contextmanager
def keap_session(
    keap: KeapSettings,
    token: Mapping[str, str] | None = None,
    deadline_seconds: float | None = None,
    must_end_by: float = math.inf,
    may_send: Callable[[], bool] | None = None,
) -> Iterator[tuple[OAuth2Session, Call]]:
    """Open a session for one request."""
    call = Call(deadline_seconds, must_end_by, may_send)
    try:
        yield KeapSession(keap, call, token), call
    finally:
        call.close()


def allow_loopback_http(keap: KeapSettings) -> None:
    """Lift oauthlib's ban on plain http, process-wide, only when every address is loopback."""
    urls = (keap.authorize_url, keap.token_url, keap.api_url)
    if all(urlsplit(url).hostname in LOOPBACK_HOSTS for url in urls):
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"

"""How requests reach Keap: through libcurl, with one total deadline, a last check, no redirects and a size limit.

Every request has a connection of its own. What is known not to have been sent is told apart from all else.
"""

import contextlib
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import cast
from urllib.parse import urlencode, urlsplit

import certifi
import pycurl
import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests_oauthlib import OAuth2Session

from keap_connect.clock import seconds_since_boot
from keap_connect.settings import LOOPBACK_HOSTS, KeapSettings

log = logging.getLogger(__name__)
DEADLINE_SECONDS = 30.0
CONNECT_SECONDS = 10.0  # name, proxy, connection and TLS together
SIZE_CAP_BYTES = 1_000_000
QUICK_EXIT = 322  # CURLOPT_QUICK_EXIT, which pycurl has no name for: closing waits for no name server
LONGEST_SILENCE_SECONDS = 2.0  # libcurl calls back once a second at least, while the process runs
READING_SECONDS = 0.5
GZIP = 31  # for zlib: the format with gzip's header
DURATION = re.compile(r" after \d+ (ms|milliseconds)")
DEADLINE = "it was not complete within the deadline"
# A used handle has read the certificate authorities, which takes longer than the rest of a call.
_idle: list[pycurl.Curl] = []


class NotSent(requests.RequestException):
    """Nothing was written; the text says why."""


class Withheld(NotSent):
    """We held it back ourselves: it must not be sent any more."""


class CertificateRefused(NotSent):
    """The server did not prove who it is."""


class NoUsableAnswer(requests.RequestException):
    """The request was written, and no whole answer came back within deadline and size limit."""


class Call:
    """One request to Keap: when it must be over, whether anything of it was written, and what came back.

    libcurl calls its methods while it works.
    """

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
        self.fault: BaseException | None = None
        self.head: list[bytes] = []
        self.body = bytearray()
        self._called_at = math.inf

    def last_look(self) -> None:
        """Check, as the last act before writing, that a process frozen meanwhile does not send too late.

        The whole call must fit between now and `must_end_by`, the end of the lease, on a clock that also counts
        the time a machine was suspended. `may_send` is asked before, since it takes time.
        """
        if self.may_send and not self.may_send():
            raise Withheld("the account had moved on, or the database did not answer")
        if seconds_since_boot() >= self.ends or self.ends > self.must_end_by:
            raise Withheld("the time to send it had passed before it was written")
        self.sent = True

    def before_request(self, *_addresses: object) -> int:
        """Look once more, now that the connection is open and before a byte of the request is written."""
        try:
            self.last_look()
        except BaseException as fault:  # libcurl would swallow it
            self.fault = fault
            return pycurl.PREREQFUNC_ABORT
        return pycurl.PREREQFUNC_OK

    def go_on(self, *_progress: object) -> int:
        """End the transfer at its deadline; after a pause of the process, what came meanwhile is read first."""
        now = seconds_since_boot()
        if now - self._called_at > LONGEST_SILENCE_SECONDS:
            self.ends = max(self.ends, now + READING_SECONDS)
        self._called_at = now
        return int(now >= self.ends)

    def take_header(self, line: bytes) -> None:
        """Note a line of the head; a proxy's answer and early hints come before the head that counts."""
        if line.startswith(b"HTTP/"):
            self.head.clear()
        self.head.append(line)

    def take_body(self, part: bytes) -> int:
        """Note a part of the body; any other number than its length ends the transfer."""
        self.body += part
        return len(part) if len(self.body) <= SIZE_CAP_BYTES else -1

    def failure(self, curl: pycurl.Curl, code: int, text: str) -> BaseException:
        """Return what to raise for an error of libcurl."""
        if self.fault:
            return self.fault
        text = DURATION.sub("", text)
        if code == pycurl.E_COULDNT_CONNECT and (number := curl.getinfo(pycurl.OS_ERRNO)):
            text += f" ({os.strerror(number)})"
        if code == pycurl.E_PEER_FAILED_VERIFICATION:
            chain = curl.getinfo(pycurl.INFO_CERTINFO)
            issuer = dict(chain[0]).get("Issuer") if chain else None
            return CertificateRefused(f"{text}; its certificate was issued by {issuer}" if issuer else text)
        if not self.sent:
            return NotSent(text)
        if len(self.body) > SIZE_CAP_BYTES:
            return NoUsableAnswer(f"it was larger than {SIZE_CAP_BYTES} bytes")
        return NoUsableAnswer(DEADLINE if code == pycurl.E_ABORTED_BY_CALLBACK else text)


class CurlAdapter(BaseAdapter):
    """Sends the request of one `Call`."""

    def __init__(self, keap: KeapSettings, call: Call) -> None:
        super().__init__()
        self._keap, self._call = keap, call

    def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
        """Send, and read the whole answer.

        Raises:
            NotSent: nothing was written.
            NoUsableAnswer: anything else went wrong. An answer whose body is a JSON object is whole, though, whatever
                is wrong with its framing: the new pair in it may be the only living one.
        """
        curl = _take_handle()
        self._set_options(curl, request)
        try:
            curl.perform()
        except pycurl.error as problem:
            if not _is_json_object(bytes(self._call.body)):
                failure = self._call.failure(curl, *problem.args)
                curl.close()
                raise failure from None
        response = requests.Response()
        response.request, response.url = request, str(request.url)
        response.status_code = curl.getinfo(pycurl.RESPONSE_CODE)
        response.headers, response.encoding = _headers(self._call.head), "utf-8"
        response._content = _unpacked(bytes(self._call.body))
        url = urlsplit(response.url)
        log.debug("%s %s at %s: %s", request.method, url.path, url.hostname, response.status_code)
        curl.reset()
        _idle.append(curl)
        return response

    def close(self) -> None:
        """Keep nothing open anyway."""

    def _set_options(self, curl: pycurl.Curl, request: requests.PreparedRequest) -> None:
        headers = [f"{name}: {value!s}" for name, value in request.headers.items()]
        seconds = min(CONNECT_SECONDS, max(self._call.ends - seconds_since_boot(), 0.001))
        for option, value in (
            (pycurl.URL, request.url),
            (pycurl.HTTPHEADER, [header.encode() for header in headers]),
            (pycurl.PREREQFUNCTION, self._call.before_request),
            (pycurl.HEADERFUNCTION, self._call.take_header),
            (pycurl.WRITEFUNCTION, self._call.take_body),
            # Not TIMEOUT_MS: after a pause of the process it ends the call without reading what has arrived.
            (pycurl.XFERINFOFUNCTION, self._call.go_on),
            (pycurl.NOPROGRESS, 0),
            (pycurl.CONNECTTIMEOUT_MS, math.ceil(seconds * 1000)),
            (pycurl.FRESH_CONNECT, 1),
            (pycurl.FORBID_REUSE, 1),  # libcurl sends a request again when a kept connection has died,
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),  # and over HTTP/2 when a stream was refused
            (pycurl.FOLLOWLOCATION, 0),
            (pycurl.NOSIGNAL, 1),
            (QUICK_EXIT, 1),
            (pycurl.PROXY, self._keap.proxy or ""),  # empty: whatever the environment says
            (pycurl.NOPROXY, ",".join(LOOPBACK_HOSTS)),
            (pycurl.OPT_CERTINFO, 1),
        ):
            curl.setopt(option, value)
        if request.body:
            curl.setopt(pycurl.POSTFIELDS, request.body)
        authorities = self._keap.authorities
        for option, blob in (
            (pycurl.CAINFO, pycurl.CAINFO_BLOB),
            (pycurl.PROXY_CAINFO, pycurl.PROXY_CAINFO_BLOB),
        ):
            curl.setopt(blob if authorities else option, authorities or certifi.where())


class KeapSession(OAuth2Session):
    """Carries the request of one `Call`, and keeps nothing for later ones.

    It asks for no scope, since oauthlib raises a Warning when Keap answers `full|<tenant>` to `full`. It reads no
    `.netrc`, which would replace the client's credentials.
    """

    def __init__(self, keap: KeapSettings, call: Call, token: Mapping[str, str] | None) -> None:
        super().__init__(keap.client_id, redirect_uri=keap.redirect_uri, token=dict(token) if token else None)
        self.max_redirects = 0
        self.trust_env = False
        self.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
        self.mount("https://", CurlAdapter(keap, call))
        self.mount("http://", CurlAdapter(keap, call))

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare it without all that `requests` would merge: none of it may reach Keap, and it takes its time."""
        prepared = requests.PreparedRequest()
        headers = {**self.headers, **(request.headers or {})}
        form = urlencode(cast("Mapping[str, str]", request.data))
        prepared.prepare(
            request.method, request.url, headers, data=form, params=request.params or None, auth=request.auth
        )
        return prepared


def _take_handle() -> pycurl.Curl:
    try:
        return _idle.pop()
    except IndexError:  # and not a look first: another thread may take the last one meanwhile
        return pycurl.Curl()


def _headers(head: list[bytes]) -> CaseInsensitiveDict[str]:
    pairs = (line.decode("latin-1").partition(":") for line in head[1:])
    return CaseInsensitiveDict((name.strip(), value.strip()) for name, _, value in pairs if value)


def _is_json_object(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _unpacked(body: bytes) -> bytes:
    """Unpack what is packed although we did not ask for it, whatever its label says."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(GZIP).decompress(body, SIZE_CAP_BYTES)
    return body


@contextlib.contextmanager
def keap_session(
    keap: KeapSettings,
    token: Mapping[str, str] | None = None,
    deadline_seconds: float | None = None,
    must_end_by: float = math.inf,
    may_send: Callable[[], bool] | None = None,
) -> Iterator[OAuth2Session]:
    """Open a session for one request."""
    with KeapSession(keap, Call(deadline_seconds, must_end_by, may_send), token) as session:
        yield session


def allow_loopback_http(keap: KeapSettings) -> None:
    """Lift oauthlib's ban on plain http, process-wide, only when every address is loopback."""
    urls = (keap.authorize_url, keap.token_url, keap.api_url)
    if all(urlsplit(url).hostname in LOOPBACK_HOSTS for url in urls):
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"

"""How requests reach Keap: through libcurl, with one total deadline, a last check, no redirects and a size limit.

Every request has a connection of its own. An error says whether anything may have been sent.
"""

import contextlib
import logging
import math
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import certifi
import pycurl
import requests
from requests.structures import CaseInsensitiveDict
from requests_oauthlib import OAuth2Session

from keap_connect import counters
from keap_connect.addresses import LOOPBACK_HOSTS
from keap_connect.clock import seconds_since_boot
from keap_connect.keap.answers import json_object
from keap_connect.settings import KeapSettings

log = logging.getLogger(__name__)
DEADLINE_SECONDS = 30.0
CONNECT_SECONDS = 10.0  # name, proxy, connection and TLS together
SIZE_CAP_BYTES = 1_000_000
LONGEST_SILENCE_SECONDS = 2.0  # libcurl calls back once a second at least, while the process runs
READING_SECONDS = 0.5
SUPPRESS_CONNECT_HEADERS, QUICK_EXIT = 265, 322  # CURLOPT_…, which pycurl has no names for
HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "keap-connect",  # filters refuse requests without one
}
OPTIONS: tuple[tuple[int, Any], ...] = (
    (pycurl.FRESH_CONNECT, 1),
    (pycurl.FORBID_REUSE, 1),  # libcurl sends a request again when a kept connection has died,
    (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),  # and over HTTP/2 when a stream was refused
    (pycurl.FOLLOWLOCATION, 0),
    (pycurl.IGNORE_CONTENT_LENGTH, 1),  # a length that is too short must not cut a grant: `Call.is_whole` decides
    (pycurl.NOPROGRESS, 0),
    (pycurl.NOSIGNAL, 1),
    (QUICK_EXIT, 1),  # closing waits for no name server
    (SUPPRESS_CONNECT_HEADERS, 1),  # a proxy's answer is not Keap's
    (pycurl.NOPROXY, ",".join(LOOPBACK_HOSTS)),
    (pycurl.OPT_CERTINFO, 1),
)
# A used handle has read the certificate authorities, which takes longer than the rest of a call.
_idle: list[pycurl.Curl] = []


class NotSent(requests.RequestException):
    """Nothing was written; the text says why."""


class Cancelled(NotSent):
    """The last check did not allow it."""


class CertificateRefused(NotSent):
    """The server did not prove who it is."""


class NoUsableAnswer(requests.RequestException):
    """The request was written, and no whole answer came back within deadline and size limit."""


class Call:
    """One request to Keap: when it must have ended, whether anything was written, and what came back.

    libcurl calls its methods while it works.
    """

    def __init__(
        self,
        deadline_seconds: float | None = None,
        must_end_by: float = math.inf,
        may_send: Callable[[], bool] | None = None,
    ) -> None:
        self.ends = seconds_since_boot() + (DEADLINE_SECONDS if deadline_seconds is None else deadline_seconds)
        self.must_end_by, self.may_send = must_end_by, may_send
        self.sent = False
        self.fault: BaseException | None = None
        self.head: list[bytes] = []
        self.body = bytearray()
        self._called_at = self._gives_up_at = -math.inf

    def last_check(self, *_addresses: object) -> int:
        """Check, once the connection is open, that a process frozen meanwhile does not send too late.

        The whole call must fit between now and `must_end_by`, the end of the lease, on a clock that also counts
        the time a machine was suspended. `may_send` is asked before, since it takes time.
        """
        try:
            if self.may_send and not self.may_send():
                raise Cancelled("the account changed meanwhile, refreshing was paused, or the database did not answer")
            if seconds_since_boot() >= self.ends or self.ends > self.must_end_by:
                raise Cancelled("the time to send it had passed before it was written")
        except BaseException as fault:  # libcurl would swallow it
            self.fault = fault
            return pycurl.PREREQFUNC_ABORT
        self.sent = True
        return pycurl.PREREQFUNC_OK

    def go_on(self, *_progress: object) -> int:
        """End the transfer (1) when its time is over, but read first what arrived in a pause of the process.

        Even in the shortest pause: libcurl may have looked for an answer right before it, and calls us right after it.
        """
        now = seconds_since_boot()
        if self._called_at < self.ends or now - self._called_at > LONGEST_SILENCE_SECONDS:
            self._gives_up_at = max(self.ends, now + READING_SECONDS)
        self._called_at = now
        return int(now >= self._gives_up_at or len(self.body) > SIZE_CAP_BYTES or self.is_whole())

    def take_header(self, line: bytes) -> None:
        """Note a line of the head; early hints come before the head that counts."""
        if line.startswith(b"HTTP/"):
            self.head.clear()
        self.head.append(line)

    @property
    def headers(self) -> CaseInsensitiveDict[str]:
        pairs = (line.decode("latin-1").partition(":") for line in self.head[1:])
        return CaseInsensitiveDict((name.strip(), value.strip()) for name, _, value in pairs if value)

    def missing_bytes(self) -> float:
        """Return how many bytes are missing by Content-Length; infinite without a complete head or a length."""
        is_complete = self.head[-1:] == [b"\r\n"] and b" 1" not in self.head[0][:10]
        length = self.headers.get("Content-Length", "") if is_complete else ""
        return int(length[:9]) - len(self.body) if length.isdecimal() else math.inf

    def is_whole(self) -> bool:
        """Whether the answer is complete; a JSON object, which may be a grant, is so whatever its framing says."""
        body = self.content()
        return json_object(body) is not None if body.lstrip()[:1] == b"{" else self.missing_bytes() <= 0

    def content(self) -> bytes:
        """Return the body, unpacked if it is gzip or deflate, which we did not ask for, whatever its headers say."""
        if self.body.startswith((b"\x1f\x8b", b"x")):
            with contextlib.suppress(zlib.error):
                return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(self.body, SIZE_CAP_BYTES)  # either of them
        return bytes(self.body)

    def failure(self, curl: pycurl.Curl, code: int, text: str) -> BaseException:
        """Return what to raise for an error of libcurl."""
        if self.fault:
            return self.fault
        if code == pycurl.E_COULDNT_CONNECT and (number := curl.getinfo(pycurl.OS_ERRNO)):
            text += f" ({os.strerror(number)})"
        if code == pycurl.E_PEER_FAILED_VERIFICATION:
            if curl.getinfo(pycurl.USED_PROXY) and not curl.getinfo(pycurl.HTTP_CONNECTCODE):
                return NotSent(f"the certificate of the proxy was not accepted: {text}")
            chain = curl.getinfo(pycurl.INFO_CERTINFO)
            issuer = dict(chain[0]).get("Issuer") if chain else None
            return CertificateRefused(f"{text}; its certificate was issued by {issuer}" if issuer else text)
        if not self.sent:
            return NotSent(text)
        if len(self.body) > SIZE_CAP_BYTES:
            text = f"it was larger than {SIZE_CAP_BYTES} bytes"
        elif code == pycurl.E_ABORTED_BY_CALLBACK:
            text = "it was not complete within the deadline"
        return NoUsableAnswer(text)


class KeapSession(OAuth2Session):
    """Carries the request of one `Call`, through libcurl where `requests` would use urllib3.

    It asks for no scope, since oauthlib raises a Warning when Keap answers `full|<tenant>` to `full`.
    """

    def __init__(self, keap: KeapSettings, call: Call, token: Mapping[str, str] | None = None) -> None:
        super().__init__(keap.client_id, redirect_uri=keap.redirect_uri, token=dict(token) if token else None)
        self._keap, self._call = keap, call

    def merge_environment_settings(self, *_: object) -> dict[str, object]:
        """Take nothing from the environment; `_options` sets what `requests` would look for there."""
        return {}

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare the request with our headers, and never with credentials from `.netrc`."""
        prepared = requests.PreparedRequest()
        headers = {**HEADERS, **(request.headers or {})}
        form = urlencode(cast("Mapping[str, str]", request.data))
        prepared.prepare(
            request.method, request.url, headers, data=form, params=request.params or None, auth=request.auth
        )
        return prepared

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:
        """Send, and read the whole answer; a redirect is an answer like others.

        Raises:
            NotSent: nothing was written.
            NoUsableAnswer: anything else went wrong. An answer whose body is a JSON object is whole, though, whatever
                is wrong with its framing: the new pair in it may be the only living one.
        """
        call = self._call
        try:
            curl = _idle.pop()
        except IndexError:  # no look before: another thread may take the last one in between
            curl = pycurl.Curl()
        for option, value in OPTIONS + self._options(request):
            curl.setopt(option, value)
        if self._keap.further_authorities:  # a file with all of them would be in memory, and be parsed for each call
            curl.set_ca_certs(self._keap.further_authorities)
        started_at = seconds_since_boot()
        try:
            curl.perform()
        except pycurl.error as problem:
            if not call.is_whole():
                failure = call.failure(curl, *problem.args)
                curl.close()
                raise failure from None
        finally:
            counters.observe("keap_latency_seconds", seconds_since_boot() - started_at)
        if 0 < call.missing_bytes() < math.inf and not call.is_whole():
            raise NoUsableAnswer(f"it ended {call.missing_bytes()} bytes too early")
        response = requests.Response()
        response.request, response.status_code = request, curl.getinfo(pycurl.RESPONSE_CODE)
        response.headers, response.encoding, response._content = call.headers, "utf-8", call.content()
        url = urlsplit(str(request.url))  # neither query nor body ends in the log
        log.debug("%s %s at %s: %s", request.method, url.path, url.hostname, response.status_code)
        curl.reset()
        _idle.append(curl)
        return response

    def _options(self, request: requests.PreparedRequest) -> tuple[tuple[int, Any], ...]:
        call, authorities = self._call, self._keap.authorities_file or certifi.where()
        seconds = min(CONNECT_SECONDS, max(call.ends - seconds_since_boot(), 0.001))
        return (
            (pycurl.URL, request.url),
            (pycurl.HTTPHEADER, [f"{name}: {value!s}".encode() for name, value in request.headers.items()]),
            *([(pycurl.POSTFIELDS, request.body)] if request.body else []),
            (pycurl.PREREQFUNCTION, call.last_check),
            (pycurl.HEADERFUNCTION, call.take_header),
            (pycurl.WRITEFUNCTION, call.body.extend),
            # Not TIMEOUT_MS: after a pause of the process it ends the call without reading what has arrived.
            (pycurl.XFERINFOFUNCTION, call.go_on),
            (pycurl.CONNECTTIMEOUT_MS, math.ceil(seconds * 1000)),
            (pycurl.PROXY, self._keap.proxy or ""),  # empty: whatever the environment says
            (pycurl.CAINFO, authorities),
            (pycurl.PROXY_CAINFO, authorities),
        )


def allow_loopback_http(keap: KeapSettings) -> None:
    """Lift oauthlib's ban on plain http, process-wide, only when every address is loopback."""
    urls = (keap.authorize_url, keap.token_url, keap.api_url)
    if all(urlsplit(url).hostname in LOOPBACK_HOSTS for url in urls):
        os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"

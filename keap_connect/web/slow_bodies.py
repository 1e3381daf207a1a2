"""Clients that send a body without end: a few threads wait for bodies, each for a few seconds, the others never.

The web server gives a request to one of its few threads as soon as the headers are there, and reading the body there
has no time limit. A handful of connections that never end their body would take all of them.
"""

import contextlib
import io
import threading

from flask import request
from werkzeug.exceptions import RequestTimeout

from keap_connect.errors import TemporarilyUnavailable

BODIES_AT_ONCE = 8  # of the 16 threads that `make run` starts
BODY_SECONDS = 10.0
PATIENCE_SECONDS = 0.05
RETRY_SECONDS = 10


class TooManyBodies(TemporarilyUnavailable):
    """More requests than we have threads for are still sending their bodies."""


_turns = threading.BoundedSemaphore(BODIES_AT_ONCE)


def take_body_in_time() -> None:
    """Read the body of this request before anybody else does.

    Raises:
        TooManyBodies: others are being waited for already; nothing was done.
        RequestTimeout: it did not come to its end in time.
    """
    length, most = request.content_length, request.max_content_length or 0
    # In chunks, or over HTTP/2: then the server tells where the body ends, and Flask reads until there.
    may_be_endless = length is None and "wsgi.input_terminated" in request.environ and request.method != "GET"
    if request.routing_exception or not (length or may_be_endless) or (length or 0) > most:
        return
    if not _turns.acquire(timeout=PATIENCE_SECONDS):
        raise TooManyBodies("Too many requests are still arriving. Nothing was done.", RETRY_SECONDS)
    try:
        request.environ["wsgi.input"] = io.BytesIO(_read(length or most + 1))
    finally:
        _turns.release()


def _read(most_bytes: int) -> bytes:
    stream, parts, is_read = request.environ["wsgi.input"], list[bytes](), threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):  # the client left; what it sent is too short, then
            parts.append(stream.read(most_bytes))
        is_read.set()

    # When its time is over, this thread stays until the client has left: it holds up nobody.
    threading.Thread(target=read, daemon=True).start()
    if not is_read.wait(BODY_SECONDS):
        raise RequestTimeout
    return b"".join(parts)

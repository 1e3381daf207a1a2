"""The front: a thread of the app gets a request only when its body is complete, and never waits for a slow reader.

Granian calls `__rsgi__` in its event loop when the headers of a request are in. Waiting for the client happens there
and costs no thread. The app stays a plain WSGI application.
"""

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask
from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]
from werkzeug.exceptions import HTTPException, LengthRequired, RequestEntityTooLarge, RequestTimeout

from keap_connect.errors import ServerBusy

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

THREADS = 16
QUEUE = 500  # complete requests that may wait for a thread
BODY_SECONDS = 30.0
ARRIVING_BYTES = 64 * 1024 * 1024  # all bodies that are arriving, together
IN_MEMORY_BYTES = 1024 * 1024  # a larger answer waits for its reader in a file
FILE_SECONDS = 10.0  # Granian opens that file within milliseconds
POLL_SECONDS = 0.02
# In the WSGI environment: the error that the app is to answer this request with, in its own words.
REFUSAL = "keap_connect.refusal"


class Answer(NamedTuple):
    """What the app answered. A large body is in a file, which has to be deleted."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Path


class Front:
    """An RSGI application around a Flask app."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._threads = ThreadPoolExecutor(THREADS, "request")
        # One more thread writes refusals, so that they also come while all others are busy.
        self._refusal_thread = ThreadPoolExecutor(1, "refusal")
        views = app.view_functions.values()
        self._most_bytes = max(app.config["MAX_CONTENT_LENGTH"], *(getattr(view, "most_bytes", 0) for view in views))
        self._in_app = 0
        self._arriving_bytes = 0
        self._files: set[Path] = set()

    async def __rsgi__(self, scope: Scope, proto: HTTPProtocol) -> None:
        """Answer one request."""
        environ = wsgi_environ(scope)
        loop = asyncio.get_running_loop()
        try:
            body = await self._receive(environ, proto)
            if self._in_app >= THREADS + QUEUE:
                raise ServerBusy("Too many requests are waiting. Nothing was done.")
        except (HTTPException, ServerBusy) as refusal:
            environ.update({REFUSAL: refusal, "CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO()})
            self._send(proto, await loop.run_in_executor(self._refusal_thread, call, self._app, environ))
            return
        if len(body) < int(environ.get("CONTENT_LENGTH", 0)):
            proto.response_empty(400, [])  # the client left in the middle of its body: nobody reads this
            return
        environ["wsgi.input"] = io.BytesIO(body)
        self._in_app += 1
        try:
            self._send(proto, await loop.run_in_executor(self._threads, call, self._app, environ))
        finally:
            self._in_app -= 1

    async def finish(self, seconds: float) -> bool:
        """Wait until the app has answered all that it was given; return False when that takes longer."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while self._in_app and loop.time() < ends:
            await asyncio.sleep(POLL_SECONDS)
        for path in list(self._files):
            self._delete(path)
        return not self._in_app

    async def _receive(self, environ: "WSGIEnvironment", proto: HTTPProtocol) -> bytes:
        """Return the body; it is shorter than its Content-Length when the client left.

        Raises:
            LengthRequired: it comes in chunks, of which Granian does not say whether the last one came.
            RequestEntityTooLarge: no view takes so much.
            RequestTimeout: it did not come to its end in time.
            ServerBusy: too much is arriving at once.
        """
        if "HTTP_TRANSFER_ENCODING" in environ:
            raise LengthRequired
        length = int(environ.get("CONTENT_LENGTH", 0))
        if length > self._most_bytes:
            raise RequestEntityTooLarge
        if not length:
            return b""
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in proto:
                    parts.append(part)
                    self._arriving_bytes += len(part)
                    if self._arriving_bytes > ARRIVING_BYTES:
                        raise ServerBusy("Too much is arriving at once. Nothing was done.")
        except TimeoutError:
            raise RequestTimeout from None
        finally:
            self._arriving_bytes -= sum(map(len, parts))
        return b"".join(parts)

    def _send(self, proto: HTTPProtocol, answer: Answer) -> None:
        if isinstance(answer.body, bytes):
            proto.response_bytes(answer.status, answer.headers, answer.body)
            return
        self._files.add(answer.body)
        proto.response_file(answer.status, answer.headers, str(answer.body))
        asyncio.get_running_loop().call_later(FILE_SECONDS, self._delete, answer.body)

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._files.discard(path)


def wsgi_environ(scope: Scope) -> "WSGIEnvironment":
    """Return the WSGI environment of a request (PEP 3333), still without its body."""
    server, _, port = scope.server.rpartition(":")
    environ = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path if scope.path.isascii() else scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "REMOTE_ADDR": scope.client.rpartition(":")[0].strip("[]"),
        "SERVER_NAME": server,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        key = environ_key(name)
        if key in environ:
            environ[key] = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        elif key:
            environ[key] = value
    return environ


@lru_cache(512)
def environ_key(name: str) -> str | None:
    """Return the key of a header.

    It is None for a name with an underscore: WSGI could not tell `X_Forwarded_For` from `X-Forwarded-For`, which
    proxies set.
    """
    key = name.upper().replace("-", "_")
    if "_" in name:
        return None
    return key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"


def call(app: "WSGIApplication", environ: "WSGIEnvironment") -> Answer:
    """Let the app answer, to the last byte: the thread is free before the client has read anything."""
    head: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
        head[:] = int(status[:3]), headers

    chunks = app(environ, start_response)
    try:
        parts, size, remaining = [], 0, iter(chunks)
        for part in remaining:
            parts.append(part)
            size += len(part)
            if size > IN_MEMORY_BYTES:
                break
        else:
            return Answer(head[0], head[1], b"".join(parts))
        # An answer that fails half-way must not look complete, so nothing of it is sent before all of it is there.
        with NamedTemporaryFile(prefix="keap-connect-", delete=False) as file:
            try:
                file.writelines(parts)
                file.writelines(remaining)
            except BaseException:
                Path(file.name).unlink()
                raise
            size = file.tell()
        headers = [(name, value) for name, value in head[1] if name.lower() != "content-length"]
        return Answer(head[0], [*headers, ("Content-Length", str(size))], Path(file.name))
    finally:
        close = getattr(chunks, "close", None)
        if close:
            close()

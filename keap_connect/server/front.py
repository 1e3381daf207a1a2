"""The front gives a request to a thread of the app only when its body is complete, and never waits for a slow reader.

It is an ASGI application around a WSGI application. Granian calls it in its event loop when the headers of a request
have arrived, and there it waits for the client without a thread. RSGI does not fit: it drops headers that are not
ASCII, and does not say whether the last chunk of a body arrived.
"""

import asyncio
import contextlib
import io
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from flask import Flask
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, RequestTimeout

from keap_connect.clock import seconds_since_boot
from keap_connect.errors import ServerBusy
from keap_connect.refresh.serving import ENDING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger(__name__)
THREADS = 16
QUEUE = 500  # complete requests that may wait for a thread
QUEUE_SECONDS = 30.0  # how long each of them may
MOST_WAITING = 500  # callers that the app lets wait without a thread
LOOK_SECONDS = 0.15
BODY_SECONDS = 30.0
ARRIVING_BYTES = 64 * 1024 * 1024  # all bodies that are arriving, together
IN_MEMORY_BYTES = 1024 * 1024  # a larger answer waits for its reader in a file
CHUNK_BYTES = 128 * 1024
STALLED_SECONDS = 120.0  # a reader that takes no chunk for so long is cut off
IS_ENDING = "This process is ending. Nothing was done."
PLAIN_CALLS = "/api/v1/accounts/"
POLL_SECONDS = 0.02
# Keys of the WSGI environment
REFUSAL = "keap_connect.refusal"  # the error that the app must answer this request with
AT_ONCE = "keap_connect.at_once"  # answer without waiting, or raise `NotAtOnce`: a thread costs more than a token call
WAITING = "keap_connect.waiting"  # a `Waiting`, if the caller can wait without a thread

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class NotAtOnce(Exception):
    """This request may have to wait for something, so it needs a thread."""


class ClientGone(Exception):
    """The client left before the end of its body, so nobody waits for an answer."""


class Waiting:
    """Lets a caller wait without a thread: after `wait`, the app is asked again, and its first answer is dropped."""

    def __init__(self) -> None:
        self.since = seconds_since_boot()
        self.is_asked_again = False
        self.awaited: tuple[Hashable, Callable[[], bool], float] | None = None

    def wait(self, what: Hashable, is_over: Callable[[], bool], until: float) -> None:
        """Ask again once `is_over`, which is called in an app context, or at a time on the boot clock.

        Callers that wait for the same thing share one call of `is_over` every 0.15 s.
        """
        self.awaited = (what, is_over, until)


class Spool(NamedTuple):
    """A large body. A thread of the app still writes it until `written` is done."""

    file: IO[bytes]
    written: "Future[None]"


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes | Spool


class Front:
    """An ASGI application around a Flask app; large answers are in nameless files in `folder` until they are sent."""

    def __init__(self, app: Flask, folder: Path) -> None:
        self._app = app
        self._folder = folder
        self._threads = ThreadPoolExecutor(THREADS, "request")
        # One more thread writes refusals, so that they also come while all others are busy.
        self._refusal_thread = ThreadPoolExecutor(1, "refusal")
        self._usual_bytes = app.config["MAX_CONTENT_LENGTH"]
        views = {rule.rule: app.view_functions[rule.endpoint] for rule in app.url_map.iter_rules()}
        self._more_bytes = {path: view.most_bytes for path, view in views.items() if hasattr(view, "most_bytes")}
        self._answers_at_once = app.extensions.get(AT_ONCE, False)
        self._in_app = 0  # requests that have a thread or wait for one
        self._waiting = 0
        self._is_ending = False
        self._awaited: dict[Hashable, asyncio.Task[None]] = {}
        self._arriving: dict[asyncio.Timeout, int] = {}  # the bytes of each body so far, oldest first
        self._arriving_bytes = 0
        self._writing = set[Future[None]]()
        self._sending = 0  # large answers that their clients are still reading

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        environ = wsgi_environ(scope)
        try:
            environ["wsgi.input"] = io.BytesIO(await self._receive(environ, receive))
            if self._is_ending:
                raise ServerBusy(IS_ENDING)
            if self._in_app >= THREADS + QUEUE:
                raise ServerBusy("Too many requests are waiting. Nothing was done.")
        except ClientGone:
            return
        except (HTTPException, ServerBusy) as refusal:
            await self._refuse(send, environ, refusal)
            return
        if self._answers_at_once and environ["PATH_INFO"].startswith(PLAIN_CALLS):
            with contextlib.suppress(NotAtOnce):
                self._call({**environ, AT_ONCE: True}, given := Future[Answer]())
                await self._send(send, environ, given.result())
                return
        self._in_app += 1
        try:
            answer = await self._answer(environ)
        except ServerBusy as refusal:
            await self._refuse(send, environ, refusal)
            return
        finally:
            self._in_app -= 1
        await self._send(send, environ, answer)

    async def _refuse(self, send: Send, environ: "WSGIEnvironment", refusal: HTTPException | ServerBusy) -> None:
        environ.update({REFUSAL: refusal, "CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO()})
        self._refusal_thread.submit(self._call, environ, given := Future[Answer]())
        await self._send(send, environ, await asyncio.wrap_future(given))

    async def _answer(self, environ: "WSGIEnvironment") -> Answer:
        """Let the app answer in a thread; ask it again as long as it lets the caller wait.

        Raises ServerBusy: no thread was free for too long.
        """
        waiting = environ[WAITING] = Waiting()
        while True:
            if self._waiting >= MOST_WAITING and not waiting.is_asked_again:
                del environ[WAITING]
            call = self._threads.submit(self._call, dict(environ), given := Future[Answer]())
            answering = asyncio.wrap_future(given)
            await asyncio.wait({answering}, timeout=QUEUE_SECONDS)
            if call.cancel():  # it still waits for a thread
                raise ServerBusy("All threads were busy for too long. Nothing was done.")
            answer = await answering
            if waiting.awaited is None:
                return answer
            self._in_app, self._waiting = self._in_app - 1, self._waiting + 1
            try:
                await self._wait(*waiting.awaited)
            finally:
                self._in_app, self._waiting = self._in_app + 1, self._waiting - 1
            waiting.awaited, waiting.is_asked_again = None, True
            environ["wsgi.input"].seek(0)

    async def _wait(self, what: Hashable, is_over: Callable[[], bool], until: float) -> None:
        look = self._awaited.get(what)
        if look is None:
            look = self._awaited[what] = asyncio.create_task(self._look_until(is_over))
            look.add_done_callback(lambda _look: self._awaited.pop(what))
        await asyncio.wait({look}, timeout=max(until - seconds_since_boot(), 0.0))

    async def _look_until(self, is_over: Callable[[], bool]) -> None:
        is_waiting = True
        while is_waiting:
            await asyncio.sleep(LOOK_SECONDS)
            is_waiting = not await asyncio.get_running_loop().run_in_executor(self._threads, self._look, is_over)

    def _look(self, is_over: Callable[[], bool]) -> bool:
        with self._app.app_context():
            return is_over()

    async def finish(self, seconds: float) -> bool:
        """Refuse further requests, and return whether all others were answered, and large answers read, in time.

        Callers that wait, for a thread or for somebody else's refresh, begin no refresh any more.
        """
        self._is_ending = True
        self._app.extensions[ENDING] = True
        loop = asyncio.get_running_loop()
        for limit in self._arriving:
            if not limit.expired():
                limit.reschedule(loop.time())
        ends = loop.time() + seconds
        while (is_busy := self._in_app + self._waiting + len(self._writing) + self._sending) and loop.time() < ends:
            await asyncio.sleep(POLL_SECONDS)
        return not is_busy

    async def _receive(self, environ: "WSGIEnvironment", receive: Receive) -> bytes:
        """Return the body, and set its length.

        Raises:
            ClientGone: the client left before its end.
            RequestEntityTooLarge: it is larger than its view accepts.
            RequestTimeout: it was not complete in time, or was refused for lack of memory.
            ServerBusy: the process ends.
        """
        length, is_chunked = int(environ.get("CONTENT_LENGTH", 0)), environ.pop("HTTP_TRANSFER_ENCODING", None)
        most = self._more_bytes.get(environ["PATH_INFO"], self._usual_bytes)
        if length > most:
            raise RequestEntityTooLarge
        if not length and not is_chunked:
            return b""
        body = bytearray()
        limit = asyncio.timeout(BODY_SECONDS)
        try:
            async with limit:
                self._arriving[limit] = 0
                is_complete = False
                while not is_complete:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body += message["body"]
                    is_complete = not message.get("more_body")
                    if len(body) > most:
                        raise RequestEntityTooLarge
                    self._make_room(limit, len(body))
        except TimeoutError:
            raise (ServerBusy(IS_ENDING) if self._is_ending else RequestTimeout()) from None
        finally:
            self._arriving_bytes -= self._arriving.pop(limit, 0)
        environ["CONTENT_LENGTH"] = str(len(body))
        return bytes(body)

    def _make_room(self, limit: asyncio.Timeout, size: int) -> None:
        """Note the size of an arriving body. If all are too large together, refuse the oldest, which is the slowest."""
        self._arriving_bytes += size - self._arriving.get(limit, 0)
        self._arriving[limit] = size
        while self._arriving_bytes > ARRIVING_BYTES:
            oldest = next(limit for limit, size in self._arriving.items() if size)
            self._arriving_bytes -= self._arriving.pop(oldest)
            oldest.reschedule(asyncio.get_running_loop().time())

    async def _send(self, send: Send, environ: "WSGIEnvironment", answer: Answer) -> None:
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        if isinstance(answer.body, bytes):
            await send(start)
            await send({"type": "http.response.body", "body": answer.body, "more_body": False})
            return
        file, written = answer.body
        self._writing.add(written)
        written.add_done_callback(self._writing.discard)
        with file, self._counted():
            if environ["SERVER_PROTOCOL"] != "HTTP/1.1":  # without chunks, half an answer would look complete
                await asyncio.wrap_future(written)
                if not any(name == b"content-length" for name, _ in headers):
                    headers.append((b"content-length", str(os.fstat(file.fileno()).st_size).encode()))
            await send(start)
            try:
                await _send_file(send, file, written)
            except TimeoutError:
                log.warning("The client %s stopped reading; its answer was cut off.", environ["REMOTE_ADDR"])
                return  # without an end, so that Granian closes the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1

    def _call(self, environ: "WSGIEnvironment", given: "Future[Answer]") -> None:
        """Let the app answer to the last byte, however slowly the client reads.

        `given` gets the answer when it is complete or larger than IN_MEMORY_BYTES, or what the app raised before.
        """
        head: list[Any] = []
        parts: list[bytes] = []
        spool: Spool | None = None

        def start_response(status: str, headers: list[tuple[str, str]], _exc_info: Any = None) -> Any:
            head[:] = int(status[:3]), headers

        try:
            chunks, size = self._app(environ, start_response), 0
            try:
                for part in chunks:
                    size += len(part)
                    if spool:
                        spool.file.write(part)
                        continue
                    parts.append(part)
                    if size > IN_MEMORY_BYTES:
                        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                        file = TemporaryFile(buffering=CHUNK_BYTES, dir=self._folder)  # noqa: SIM115  (_send closes it)
                        file.writelines(parts)
                        parts.clear()
                        spool = Spool(file, Future())
                        given.set_result(Answer(head[0], head[1], spool))
                if spool:
                    spool.file.flush()
            finally:
                close = getattr(chunks, "close", None)
                if close:
                    close()
        except BaseException as problem:
            (spool.written if spool else given).set_exception(problem)
        else:
            if spool:
                spool.written.set_result(None)
            else:
                given.set_result(Answer(head[0], head[1], b"".join(parts)))


async def _send_file(send: Send, file: IO[bytes], written: "Future[None]") -> None:
    """Send what the file holds, while it grows. Raises TimeoutError: the client takes nothing any more."""
    size, is_whole = 0, False
    while not is_whole:
        is_written = written.done()
        chunk = os.pread(file.fileno(), CHUNK_BYTES, size)
        is_whole = is_written and not chunk
        if chunk:
            size += len(chunk)
            async with asyncio.timeout(STALLED_SECONDS):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        elif not is_whole:
            await asyncio.sleep(POLL_SECONDS)
    written.result()


def wsgi_environ(scope: Message) -> "WSGIEnvironment":
    """Return the WSGI environment of a request (PEP 3333), without its body."""
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "REMOTE_ADDR": scope["client"][0],
        "SERVER_NAME": scope["server"][0],
        "SERVER_PORT": str(scope["server"][1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key = environ_key(name)
        if key in environ:
            environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value.decode("latin-1")
        elif key:
            environ[key] = value.decode("latin-1")
    return environ


@lru_cache(512)
def environ_key(name: bytes) -> str | None:
    """Return the key of a header, or None if its name has an underscore.

    WSGI could not tell `X_Forwarded_For` from `X-Forwarded-For`, which proxies set.
    """
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"

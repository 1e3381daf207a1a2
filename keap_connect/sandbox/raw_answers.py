"""Answers below HTTP: bytes straight onto the socket, and connections that end too early."""

import socket
import struct
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

import flask
from werkzeug.serving import WSGIRequestHandler


class ConnectionCut(ConnectionError):
    """Ends a request without the server's own answer; a reset (RST) instead of a normal end (FIN)."""

    def __init__(self, with_reset: bool) -> None:
        self.with_reset = with_reset


class RawAnswer(flask.Response):
    """Writes `chunks` to the socket as they are, then cuts the connection."""

    def __init__(self, chunks: Iterable[bytes] = (), with_reset: bool = False) -> None:
        super().__init__()
        self._chunks = chunks
        self._with_reset = with_reset

    def __call__(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,  # noqa: ARG002  (this answer goes past WSGI)
    ) -> Iterable[bytes]:
        for chunk in self._chunks:
            environ["werkzeug.socket"].sendall(chunk)
        raise ConnectionCut(self._with_reset)


def head_bytes(answer: flask.Response, content_length: int) -> bytes:
    """The status line and headers of an answer as they go over the wire."""
    headers = [f"{name}: {value}" for name, value in answer.headers if name.lower() != "content-length"]
    lines = [f"HTTP/1.1 {answer.status}", *headers, f"Content-Length: {content_length}", "Connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class SandboxRequestHandler(WSGIRequestHandler):
    """Serves one connection quietly and quickly, and knows how to cut it."""

    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep still: the ledger is the log."""

    def connection_dropped(self, error: BaseException, environ: WSGIEnvironment | None = None) -> None:  # noqa: ARG002
        self.close_connection = True
        if isinstance(error, ConnectionCut) and error.with_reset:
            # With a linger time of zero, closing sends RST; it only closes once the reading file is gone too.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

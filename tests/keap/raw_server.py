"""A server below HTTP: it takes connections on loopback, notes what arrives, and answers as a test scripts it."""

import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

Script = Callable[["Connection"], None]


class Connection:
    """One connection to the server, with the request that came over it."""

    def __init__(self, server: "RawServer", sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self.request = b""
        self.bytes_sent = 0

    def read_request(self) -> bytes:
        """Read one whole request; what the client did send when it left earlier."""
        while not self._is_whole() and (received := self._sock.recv(65536)):
            self.request += received
        return self.request

    def send(self, content: bytes) -> None:
        self._sock.sendall(content)
        self.bytes_sent += len(content)

    def drip(self, content: bytes, seconds_per_byte: float = 0.1) -> None:
        for byte in content:
            self.send(bytes([byte]))
            self._server.is_over.wait(seconds_per_byte)

    def stream(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self.send(chunk)

    def join(self, other: socket.socket) -> None:
        """Pass everything on between this connection and another one, until one of them ends."""
        ways = {self._sock: other, other: self._sock}
        while True:
            for source in select.select([] if self._has_pending() else list(ways), [], [])[0] or [self._sock]:
                received = source.recv(65536)
                if not received:
                    return
                ways[source].sendall(received)

    def _has_pending(self) -> bool:
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def wait_for_first_byte(self) -> None:
        """Wait until the client has written something, and leave it unread."""
        self._sock.recv(1, socket.MSG_PEEK)

    def wait_for_the_end(self) -> None:
        self._server.is_over.wait(30)

    def wait_until_client_leaves(self) -> None:
        self._sock.recv(1)

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def _is_whole(self) -> bool:
        head, separator, body = self.request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        return bool(separator) and len(body) >= (int(length[1]) if length else 0)


class RawServer:
    """Runs `script` for each connection, in a thread; by default it reads the request and closes."""

    def __init__(self, script: Script = Connection.read_request, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.connections: list[Connection] = []
        self.is_over = threading.Event()
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open: list[socket.socket] = []
        self._last_client: tuple[str, int] | None = None
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"

    @property
    def requests(self) -> list[bytes]:
        """What arrived, one entry for each connection that sent anything."""
        return [connection.request for connection in self.connections if connection.request]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Accept what waits, end everything and wait for it, so that what arrived is known."""
        self.is_over.set()
        with suppress(OSError), socket.socket() as last:  # OSError: it was closed before
            last.bind(("127.0.0.1", 0))
            self._last_client = last.getsockname()
            last.connect(("127.0.0.1", self.port))
            self._threads[0].join(10)
        self._listener.close()
        for sock in self._open:
            with suppress(OSError):  # it ended by itself
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while True:
            sock, client = self._listener.accept()
            self._open.append(sock)
            if self.is_over.is_set() and client == self._last_client:
                return
            self._threads.append(threading.Thread(target=self._serve, args=[sock], daemon=True))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            connection = Connection(self, sock)
            self.connections.append(connection)
            self.script(connection)
        except OSError:
            pass  # the client left, or refused our certificate
        finally:
            sock.close()


def answering(answer: bytes) -> Script:
    """Return the script that reads the request and gives this answer."""

    def script(connection: Connection) -> None:
        connection.read_request()
        connection.send(answer)

    return script


def http(body: bytes, *headers: str, status: str = "200 OK", length: int | None = -1) -> bytes:
    """Write an answer; `length` None leaves Content-Length out, so that the end of the connection ends the body."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", "Connection: close", *headers]
    if length is not None:
        lines.append(f"Content-Length: {len(body) if length < 0 else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body

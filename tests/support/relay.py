"""Passes bytes between those who connect to a listening socket and a server: from one network to another."""

import contextlib
import socket
import threading
from collections.abc import Callable
from select import select
from typing import Self


def connect_unix(path: str) -> socket.socket:
    """Connect to a server's Unix socket."""
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(path)
    return connected


class Relay:
    """It runs until the end of a `with` block, and owns the listening socket."""

    def __init__(self, listening: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listening, self._connect = listening, connect
        self._other_end: dict[socket.socket, socket.socket] = {}
        self._is_closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
        self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        for each in (self._listening, *self._other_end):
            each.close()

    def _run(self) -> None:
        while not self._is_closed:
            readable, _, _ = select([self._listening, *self._other_end], [], [])
            with self._lock:
                for one in readable:
                    if one is self._listening:
                        self._accept()
                    elif one in self._other_end:
                        self._read(one)

    def _accept(self) -> None:
        if self._is_closed:
            return
        client, _ = self._listening.accept()
        server = self._connect()
        self._other_end |= {client: server, server: client}

    def _read(self, one: socket.socket) -> None:
        other, content = self._other_end[one], b""
        with contextlib.suppress(ConnectionError):
            content = one.recv(65536)
        if content:
            self._pass_on(one, other, content)
            return
        for each in (one, other):
            del self._other_end[each]
            each.close()

    def _pass_on(self, _one: socket.socket, other: socket.socket, content: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            other.sendall(content)

"""A line to PostgreSQL on which packets can vanish, as when a cable is pulled or a firewall forgets its connections.

The kernel drops what arrives at our end, by a filter on each socket: a client gets no acknowledgement, no answer and no
end, and PostgreSQL does not learn that its client is gone. No rights are needed, but Linux is.
"""

import ctypes
import socket
import struct
import sys
import threading
from functools import partial

import pytest
from sqlalchemy import URL

from tests.support.relay import Relay, connect_unix

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
KEEP_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # a program of one instruction: return 0
FILTER = struct.pack("HP", 1, ctypes.addressof(KEEP_NOTHING))


class Line(Relay):
    """Leads from a TCP port on loopback to PostgreSQL's Unix socket, until the end of a `with` block."""

    def __init__(self, direct: URL) -> None:
        if sys.platform != "linux":
            pytest.skip("only Linux has socket filters")
        server = f"{direct.query['host']}/.s.PGSQL.5432"
        super().__init__(socket.create_server(("127.0.0.1", 0)), partial(connect_unix, server))
        host, port = self._listening.getsockname()
        self.url = direct.set(host=host, port=port, query={}).render_as_string(hide_password=False)
        self.is_cut = threading.Event()
        self._lost: list[socket.socket] = []
        self._last, self._is_last_delivered = b"", False

    def cut(self) -> None:
        """From now on all packets vanish."""
        with self._lock:
            self._cut()

    def cut_at(self, last: bytes, is_delivered: bool) -> None:
        """Cut the line once a client sends this, before or after it is passed on."""
        with self._lock:
            self._last, self._is_last_delivered = last, is_delivered

    def mend(self) -> None:
        """Let new connections pass; what was cut is lost for good."""
        self._listening.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        for each in self._lost:
            each.close()

    def _pass_on(self, one: socket.socket, other: socket.socket, content: bytes) -> None:
        is_last = bool(self._last) and self._last in content
        if not is_last or self._is_last_delivered:
            super()._pass_on(one, other, content)
        if is_last:
            self._cut()

    def _cut(self) -> None:
        for each in (self._listening, *self._other_end):
            if each.family is socket.AF_INET:
                each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, FILTER)
        self._lost += self._other_end
        self._other_end = {}
        self._last = b""
        self.is_cut.set()

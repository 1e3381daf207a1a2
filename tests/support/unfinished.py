"""Clients that begin a request and do not go on."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

FORM = b"POST /signin HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\n"
UNFINISHED = {
    "nothing at all": b"",
    "headers": b"GET /healthz HTTP/1.1\r\nHost: %s\r\nX-Slow: ",
    "body": FORM + b"Content-Length: 60000\r\n\r\nemail=",
    "body of the API": b"POST /api/v1/accounts HTTP/1.1\r\nHost: %s\r\nContent-Length: 60000\r\n\r\n{",
    "chunks": FORM + b"Transfer-Encoding: chunked\r\n\r\n6\r\nemail=\r\n1\r\n",
    "answer not read": b"GET /api/openapi.json HTTP/1.1\r\nHost: %s\r\n\r\n" * 40,
}


@contextmanager
def unfinished(port: int, host: str, **numbers: int) -> Iterator[list[socket.socket]]:
    """Begin so many requests of each kind, all at once, and stay."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as opened:
        clients = []
        for kind, number in numbers.items():
            begun = UNFINISHED[kind.replace("_", " ")].replace(b"%s", host.encode())
            for _ in range(number):
                client = opened.enter_context(socket.create_connection(("127.0.0.1", port)))
                client.sendall(begun)
                clients.append(client)
        yield clients

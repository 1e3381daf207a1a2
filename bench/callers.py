"""Callers that ask as fast as they are answered, over connections that stay open.

Run as `python -m bench.callers PORT SECONDS CALLERS HOST KEY`, with one path a line on standard input, taken by chance.
It prints the number of answers of each status and the milliseconds of the slowest hundredth, as JSON.
"""

import json
import random
import selectors
import socket
import sys
import time
from collections import Counter

WARM_UP_SECONDS = 1.0


class Caller:
    """One connection with one request under way."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.requests = requests
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.asked_at = 0.0

    def ask(self) -> None:
        """Send a request."""
        self.received = b""
        self.asked_at = time.perf_counter()
        self.socket.sendall(random.choice(self.requests))  # noqa: S311

    def listen(self) -> bytes | None:
        """Return the status once the answer is complete."""
        part = self.socket.recv(65536)
        if not part:
            raise SystemExit("The server closed a connection.")
        self.received += part
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head[9:12] if len(body) >= length else None


def call(port: int, seconds: float, callers: int, requests: list[bytes]) -> dict[str, object]:
    """Ask for so many seconds, after a warm-up that does not count."""
    selector = selectors.DefaultSelector()
    for _ in range(callers):
        caller = Caller(port, requests)
        selector.register(caller.socket, selectors.EVENT_READ, caller)
        caller.ask()
    begins = time.perf_counter() + WARM_UP_SECONDS
    statuses: Counter[str] = Counter()
    waits = []
    while (now := time.perf_counter()) < begins + seconds:
        for ready, _ in selector.select(1.0):
            status = ready.data.listen()
            if status is not None:
                if now > begins:
                    statuses[status.decode()] += 1
                    waits.append(time.perf_counter() - ready.data.asked_at)
                ready.data.ask()
    waits.sort()
    return {"statuses": statuses, "p99": waits[len(waits) * 99 // 100] * 1000, "seconds": seconds}


if __name__ == "__main__":
    port, seconds, callers, host, key = sys.argv[1:]
    head = f" HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n"
    wanted = [f"GET {path}{head}".encode() for path in sys.stdin.read().split()]
    print(json.dumps(call(int(port), float(seconds), int(callers), wanted)))

"""A token endpoint for measuring: it rotates, answers after a while, and counts what is presented twice.

The sandbox spends 1.2 ms of a core on each call, a whole core at the rates measured here; this one spends 0.3 ms. Run
as `python -m bench.token_endpoint SECONDS`; it prints its address. `POST /tokens` with a number as its body forgets
everything and issues so many refresh tokens, `GET /figures` tells what was seen since.
"""

import asyncio
import json
import secrets
import sys
import time
from urllib.parse import parse_qs

SCOPE = "full|ab123.infusionsoft.com"


class Ledger:
    """Which refresh tokens live, which are spent, and when they came."""

    def __init__(self) -> None:
        self.issue(0)

    def issue(self, number: int) -> list[str]:
        """Begin anew with so many refresh tokens."""
        self.live = {secrets.token_urlsafe(24) for _ in range(number)}
        self.spent: set[str] = set()
        self.granted = self.presented_twice = self.unknown = 0
        self.first_at = self.last_at = 0.0
        return sorted(self.live)

    def present(self, refresh_token: str) -> tuple[int, dict[str, object]]:
        """Rotate, or refuse."""
        self.first_at = self.first_at or time.monotonic()
        if refresh_token not in self.live:
            self.presented_twice += refresh_token in self.spent
            self.unknown += refresh_token not in self.spent
            return 400, {"error": "invalid_grant", "error_description": "Invalid refresh token"}
        self.live.remove(refresh_token)
        self.spent.add(refresh_token)
        self.granted += 1
        fresh = secrets.token_urlsafe(24)
        self.live.add(fresh)
        pair = {"access_token": secrets.token_urlsafe(24), "refresh_token": fresh}
        return 200, {**pair, "token_type": "bearer", "expires_in": 86399, "scope": SCOPE}

    def figures(self) -> dict[str, object]:
        """Tell what was seen; `seconds` runs from the first request to the last answer."""
        counts = {"granted": self.granted, "presented_twice": self.presented_twice, "unknown": self.unknown}
        return {**counts, "seconds": self.last_at - self.first_at}


class Connection(asyncio.Protocol):
    """One connection; it may carry many requests, one after the other."""

    def __init__(self, ledger: Ledger, delay_seconds: float) -> None:
        self.ledger = ledger
        self.delay_seconds = delay_seconds
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it, for the answers."""
        self.transport = transport

    def data_received(self, received: bytes) -> None:
        """Answer once a request is complete."""
        self.received += received
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if not separator:
            return
        _, _, length = head.lower().partition(b"content-length:")
        if len(body) < int(length.split(b"\r\n")[0] or 0):
            return
        self.received = b""
        line = head.partition(b"\r\n")[0]
        if line.startswith(b"POST /token "):
            fields = parse_qs(body.decode())
            answer = self.ledger.present(fields["refresh_token"][0])
            asyncio.get_running_loop().call_later(self.delay_seconds, self.grant, *answer)
        elif line.startswith(b"POST /tokens "):
            self.answer(200, self.ledger.issue(int(body)))
        else:
            self.answer(200, self.ledger.figures())

    def grant(self, status: int, content: dict[str, object]) -> None:
        """Answer as a token endpoint."""
        self.answer(status, content)
        self.ledger.last_at = time.monotonic()

    def answer(self, status: int, content: object) -> None:
        """Write an answer."""
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


async def main() -> None:
    """Listen on a free loopback port until ended."""
    ledger, delay_seconds = Ledger(), float(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(ledger, delay_seconds), "127.0.0.1", 0, backlog=1000
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

"""A listener between the app and the sandbox's token endpoint: writes each request down, then passes it on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs

import requests


@dataclass
class Request:
    """One request as it came over the wire."""

    path: str
    body: str = field(repr=False)

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body, strict_parsing=True).items()}


class Recorder:
    """`requests` holds what was heard; `url` is where to send it."""

    def __init__(self, target: str) -> None:
        self.requests: list[Request] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                recorder.requests.append(Request(self.path, body.decode()))
                names = ("Content-Type", "Authorization", "Accept")
                headers = {name: self.headers[name] for name in names if name in self.headers}
                answer = requests.post(target + self.path, data=body, headers=headers, timeout=60)
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @classmethod
    @contextmanager
    def start(cls, target: str) -> Iterator[Self]:
        """Listen until the end of the block."""
        recorder = cls(target)
        thread = threading.Thread(target=recorder._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield recorder
        finally:
            recorder._server.shutdown()
            recorder._server.server_close()
            thread.join()

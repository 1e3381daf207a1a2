"""The server that ships, in a process of its own; and another WSGI server, to compare it with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.server import free_port

ROOT = Path(__file__).parent.parent.parent
SHIPPED = [sys.executable, "-m", "keap_connect", "serve"]
# Plain WSGI: any server that gives a thread to a request as soon as its headers are there.
OTHER = [sys.executable, "-m", "granian", "--interface", "wsgi", "--blocking-threads", "16"]
OTHER += ["--log-level", "error", "app:app"]
PATIENCE_SECONDS = 300


class RealServer:
    """A running server."""

    def __init__(self, environ: Mapping[str, str], command: list[str], port: int = 0) -> None:
        self.port = port or free_port()
        self.environ = environ
        self.host = urlsplit(environ["PUBLIC_URL"]).netloc
        inside = {"LOG_LEVEL": "WARNING", **environ, "PORT": str(self.port), "GRANIAN_PORT": str(self.port)}
        inside = {"PATH": os.environ["PATH"], "FLASK_SKIP_DOTENV": "1", **inside}
        self.process = subprocess.Popen(command, cwd=ROOT, env=inside)

    def wait_until_it_listens(self) -> None:
        """Wait until it takes connections."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.connect()
                connection.close()
                return
            except OSError:
                assert self.process.poll() is None, "the server ended"
                assert time.monotonic() < ends, "the server did not start"
                time.sleep(0.05)

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Ask under the app's public name; return status and body."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)) as connection:
            connection.request("GET", path, headers={"Host": self.host, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def ask(self, path: str, key: str) -> tuple[int, bytes]:
        """Ask as a program with an API key does."""
        return self.get(path, Authorization=f"Bearer {key}")

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(sign)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def real_server(environ: Mapping[str, str], *options: str, command: list[str] = SHIPPED) -> Iterator[RealServer]:
    """Serve the app on a free port until the end of the block; with `ready_command`, from what is imported already."""
    server = RealServer(environ, [*command, *options])
    try:
        server.wait_until_it_listens()
        yield server
    finally:
        server.process.terminate()
        server.process.wait(PATIENCE_SECONDS)


@contextmanager
def real_servers(number: int, environ: Mapping[str, str], command: list[str] = SHIPPED) -> Iterator[list[RealServer]]:
    """Serve the app by so many processes on one database, each on a port of its own."""
    with ExitStack() as stack:
        yield [stack.enter_context(real_server(environ, command=command)) for _ in range(number)]

"""The app as it runs in production: by Granian, in processes of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import requests

from tests.support.server import free_port

ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 90


@contextmanager
def serve_processes(number: int, environ: Mapping[str, str]) -> Iterator[list[int]]:
    """Serve the app by so many processes on one database, each on a port of its own."""
    ports = [free_port() for _ in range(number)]
    inside = {"PATH": os.environ["PATH"], "FLASK_SKIP_DOTENV": "1", **environ, "LOG_LEVEL": "WARNING"}
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--no-ws", "--log-level", "error"]
    command += ["--workers", "1", "--blocking-threads", "16", "--host", "127.0.0.1"]
    processes = [subprocess.Popen([*command, "--port", str(p), "app:app"], cwd=ROOT, env=inside) for p in ports]
    try:
        for port in ports:
            _wait_for(port)
        yield ports
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def ask(port: int, environ: Mapping[str, str], key: str, path: str) -> tuple[int, bytes]:
    """Ask one of the processes, under the app's public name; return status and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    host = urlsplit(environ["PUBLIC_URL"]).netloc
    connection.request("GET", path, headers={"Host": host, "Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def _wait_for(port: int) -> None:
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
            return
        except requests.ConnectionError:
            assert time.monotonic() < ends, "a server did not start"
            time.sleep(0.1)

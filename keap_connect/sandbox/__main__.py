"""`python -m keap_connect.sandbox`: starts the stand-in for Keap on a port of its own."""

import argparse
import os
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from types import FrameType

from werkzeug.serving import make_server

from keap_connect.sandbox.application import create_sandbox
from keap_connect.sandbox.apps import RedirectURIMode
from keap_connect.sandbox.raw_answers import SandboxRequestHandler

WAITING_CONNECTIONS = 1024


def main() -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code."""
    signal.signal(signal.SIGTERM, end)
    try:
        return serve(parse_arguments())
    except KeyboardInterrupt:
        return 0


def serve(options: argparse.Namespace) -> int:
    try:
        app = create_sandbox(options.store, RedirectURIMode(options.redirect_uri_mode))
    except (sqlite3.Error, OSError) as error:
        return fail(f"The sandbox cannot use the store {options.store}: {error}.")
    try:
        listener = socket.create_server((options.host, options.port), backlog=WAITING_CONNECTIONS)
    except (OSError, OverflowError) as error:  # the other is for a port that cannot be
        number = getattr(error, "errno", None) or 0  # below 0 for a name that is not found
        reason = os.strerror(number) if number > 0 else str(error.args[-1]).rstrip(".")
        return fail(f"The sandbox cannot listen on {options.host}:{options.port}: {reason}.")
    port = listener.getsockname()[1]
    server = make_server(
        options.host, port, app, threaded=True, request_handler=SandboxRequestHandler, fd=listener.fileno()
    )
    print(f"Sandbox listening on http://{options.host}:{port}", flush=True)
    server.serve_forever()
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m keap_connect.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=5001, help="0 picks a free one")
    parser.add_argument("--store", type=Path, required=True, help="file that keeps everything over a restart")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--redirect-uri-mode",
        choices=[mode.value for mode in RedirectURIMode],
        default=RedirectURIMode.ALLOW_LOCALHOST.value,
    )
    return parser.parse_args()


def fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


def end(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

"""Processes of their own that receive callbacks: `python -m tests.connect.arriving`.

The first line it reads is JSON: the environment, the browser's cookie and the callbacks of each process. Each of them
says when it is ready, acts on the second line, and answers with the ref of the flow of each of its callbacks.
"""

import json
import os
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

from keap_connect.application import create_app
from keap_connect.connect.callback import receive_callback
from keap_connect.database import db
from keap_connect.keap.authorization import AuthorizationResponse
from keap_connect.settings import Settings


def receive(callback_url: str, browser: str) -> str:
    """Act on a callback as the page does; returns the ref of its flow."""
    response = AuthorizationResponse.from_query(parse_qs(urlsplit(callback_url).query))
    return receive_callback(response, browser)


def main() -> None:
    """Fork a process for each share; when all of them are ready, wait for the sign and let them go."""
    orders = json.loads(sys.stdin.readline())
    waits, sign = os.pipe()
    children = []
    for share in orders["shares"]:
        children.append(os.fork())
        if children[-1] == 0:
            os.close(sign)
            receive_share(orders, share, waits)
            return
    sys.stdin.readline()
    os.close(sign)  # all who wait read its end at the same moment
    for each in children:
        os.waitpid(each, 0)


def receive_share(orders: dict[str, Any], share: list[str], waits: int) -> None:
    """Get ready, wait until the other end of a pipe is closed, then receive callbacks."""
    app = create_app(Settings.from_env(orders["environ"]))
    with app.app_context():
        db.engine.connect().close()
        say("ready")
        os.read(waits, 1)
        refs = [receive(callback_url, orders["browser"]) for callback_url in share]
        db.engine.dispose()
    say(json.dumps(refs))


def say(line: str) -> None:
    """Write a whole line at once: other processes write to the same pipe."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    main()

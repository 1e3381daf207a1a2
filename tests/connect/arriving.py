"""A process of its own that receives callbacks: `python -m tests.connect.arriving`.

The first line it reads is JSON: the environment, the browser's cookie and the callbacks. It says when it is ready,
acts on the second line, and answers with the ref of the flow of each callback.
"""

import json
import sys
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
    """Wait for the sign, then receive all callbacks."""
    orders = json.loads(sys.stdin.readline())
    app = create_app(Settings.from_env(orders["environ"]))
    with app.app_context():
        db.engine.connect().close()
        print("ready", flush=True)
        sys.stdin.readline()
        refs = [receive(callback_url, orders["browser"]) for callback_url in orders["callbacks"]]
        db.engine.dispose()
    print(json.dumps(refs), flush=True)


if __name__ == "__main__":
    main()

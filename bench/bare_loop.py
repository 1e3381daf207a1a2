"""The least that a sweep can be: `requests` in as many threads as the worker has, the answers thrown away.

Run as `python -m bench.bare_loop TOKEN_URL THREADS`, with one refresh token a line on standard input.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import requests

CLIENT_ID = "benchclientid0000000000000000001"
CLIENT_SECRET = "benchsecret00001"  # noqa: S105  (the endpoint asks nobody who they are)


def send(url: str, refresh_token: str) -> None:
    """Present one refresh token, on a connection of its own, as the worker does."""
    fields = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    requests.post(url, fields, auth=(CLIENT_ID, CLIENT_SECRET), timeout=30)


if __name__ == "__main__":
    with ThreadPoolExecutor(int(sys.argv[2])) as pool:
        for token in sys.stdin.read().split():
            pool.submit(send, sys.argv[1], token)

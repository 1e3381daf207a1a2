"""A program that refreshes once and prints how it is judged: `python -m tests.keap.one_refresh ORDERS`, in JSON."""

import json
import os
import socket
import sys

from keap_connect.keap import token_endpoint, transport
from keap_connect.settings import KeapSettings

if __name__ == "__main__":
    orders = json.loads(sys.argv[1])
    url = orders["token_url"]
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
    transport.DEADLINE_SECONDS = orders["deadline_seconds"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        if "name_server" in orders:
            silent.bind((orders["name_server"], 53))
        classified = token_endpoint.refresh(KeapSettings("id", "secret", url, url, url, url), "r")
    told = {name: getattr(classified, name) for name in ("verdict", "reason", "was_sent", "may_have_rotated")}
    print(json.dumps(told))

"""Asks Keap Connect for valid Keap access tokens, and keeps a job's calls to Keap authorized.

connect = KeapConnect("https://connect.example.com", api_key)
token = connect.token("external:acme")

keap = requests.Session()
keap.auth = connect.requests_auth("external:acme")
"""

from keap_connect_client.client import KeapConnect
from keap_connect_client.errors import (
    AccountNotFound,
    KeapConnectError,
    KeyRefused,
    NotKeap,
    ReconnectRequired,
    RequestRefused,
    TemporarilyUnavailable,
)
from keap_connect_client.token import Token

__all__ = [
    "AccountNotFound",
    "KeapConnect",
    "KeapConnectError",
    "KeyRefused",
    "NotKeap",
    "ReconnectRequired",
    "RequestRefused",
    "TemporarilyUnavailable",
    "Token",
]

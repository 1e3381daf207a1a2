"""The settings of the running app, and the tools that are made from them once."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from argon2 import PasswordHasher
from flask import Flask, current_app

from keap_connect.crypto import TokenCipher
from keap_connect.settings import KeapSettings, Settings

# argon2id with 19 MiB, 2 passes, 1 lane: the minimum of OWASP, which a small machine can bear.
PASSWORD_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@dataclass(frozen=True)
class Services:
    settings: Settings
    cipher: TokenCipher
    password_hasher: PasswordHasher
    dummy_hash: str  # verified when there is no such admin, so that the answer takes as long

    @property
    def keap(self) -> KeapSettings:
        return self.settings.keap


def attach_services(app: Flask, settings: Settings) -> None:
    services = Services(settings, TokenCipher(settings.token_keys), PASSWORD_HASHER, make_dummy_hash(PASSWORD_HASHER))
    app.extensions["keap_connect"] = services


def make_dummy_hash(hasher: PasswordHasher) -> str:
    """Return a hash of no password, which costs nothing to make and as much to verify as a real one."""
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    salt, digest = (base64.b64encode(secrets.token_bytes(length)) for length in (hasher.salt_len, hasher.hash_len))
    return f"$argon2id$v=19${cost}${salt.decode().rstrip('=')}${digest.decode().rstrip('=')}"


def services() -> Services:
    found: Services = current_app.extensions["keap_connect"]
    return found


def page_url(path: str) -> str:
    return services().settings.public_url + path


def keyed_hash(*parts: str) -> str:
    """Return 64 digits that nobody makes without SECRET_KEY; the first part says what for."""
    key = services().settings.secret_key.encode()
    return hmac.new(key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()

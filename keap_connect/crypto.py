"""Seals secrets for storage with AES-256-GCM; every ciphertext is bound to its context.

The context names where the value is stored, such as ("account", 7, "refresh_token").

Layout: version (1 byte) + key id (4) + nonce (12) + ciphertext and tag. Version, key id and context are
authenticated, so a ciphertext that is edited or copied to another row or column does not open.
"""

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keap_connect.errors import SealBroken, SealingKeyUnknown

VERSION = b"\x01"
NONCE_BYTES = 12
KEY_ID_BYTES = 4


class TokenCipher:
    """A ring of keys: the first seals, all of them open."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._ring = {_key_id(key): AESGCM(key) for key in keys}
        self._sealing_id = _key_id(keys[0])

    def seal(self, secret: str, *context: str | int) -> bytes:
        header = VERSION + self._sealing_id
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ring[self._sealing_id].encrypt(nonce, secret.encode(), header + _joined(context).encode())
        return header + nonce + sealed

    def open(self, sealed: bytes, *context: str | int) -> str:
        """Decrypt what `seal` made for the same context.

        Raises SealingKeyUnknown: no key of the ring has sealed it; SealBroken: it does not open in this context.
        """
        name = _joined(context)
        header, nonce = sealed[:5], sealed[5 : 5 + NONCE_BYTES]
        cipher = self._ring.get(header[1:])
        if cipher is None or header[:1] != VERSION:
            raise SealingKeyUnknown(f"{name} was sealed with a key that is not in TOKEN_KEYS.")
        try:
            return cipher.decrypt(nonce, sealed[5 + NONCE_BYTES :], header + name.encode()).decode()
        except (InvalidTag, ValueError):  # ValueError: not even the nonce is whole
            raise SealBroken(f"{name} does not open: it was edited or moved.") from None

    @property
    def sealing_key(self) -> str:
        """The id of the first key, which says nothing about the key."""
        return self._sealing_id.hex()

    def is_newest(self, sealed: bytes) -> bool:
        """Whether the first key has sealed this."""
        return sealed[1 : 1 + KEY_ID_BYTES] == self._sealing_id


def hash_secret(secret: str) -> str:
    """Return the hash by which a random secret is stored: nobody can guess the secret, so a slow hash gains nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _joined(context: tuple[str | int, ...]) -> str:
    return ":".join(map(str, context))


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"keap-connect key id" + key).digest()[:KEY_ID_BYTES]

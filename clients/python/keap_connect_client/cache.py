"""One account's token, kept until shortly before it expires and shared by all threads of the process."""

import threading
import time
from collections.abc import Callable

from keap_connect_client.errors import TemporarilyUnavailable
from keap_connect_client.token import Token, fingerprint_of

# Keap Connect itself refreshes when less than this is left, so asking earlier would bring the same token again.
SECONDS_LEFT = 60.0
LEAST_SECONDS_LEFT = 5.0
# A token that was just fetched and is refused as well is not the fault of tokens: no third one is asked for.
SECONDS_BETWEEN_REPORTS = 60.0


class CachedToken:
    """Asks for a token when there is none that lasts; however many threads want one, one of them asks.

    Args:
        fetch: asks Keap Connect for a token.
        report: reports the token with this fingerprint, which Keap refused.
    """

    def __init__(self, fetch: Callable[[], Token], report: Callable[[str], None]) -> None:
        self._fetch = fetch
        self._report = report
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._replaced_at: float | None = None

    def get(self) -> str:
        """Return an access token that is valid now.

        Raises:
            KeapConnectError: those of `fetch`.
        """
        with self._lock:
            return self._current()

    def replace(self, refused: str) -> str:
        """Report a token that Keap refused and return another, unless another thread has done so already.

        Returns:
            The refused one when it was itself fetched to replace a refused one, less than a minute ago.

        Raises:
            KeapConnectError: those of `fetch` and `report`.
        """
        with self._lock:
            if self._token is None or self._token.access_token != refused:
                return self._current()
            now = time.monotonic()
            if self._replaced_at is not None and now < self._replaced_at + SECONDS_BETWEEN_REPORTS:
                return refused
            self._token = None
            self._report(fingerprint_of(refused))
            fresh = self._current()
            self._replaced_at = now
            return fresh

    def _current(self) -> str:
        known = self._token
        if known is not None and known.lasts(SECONDS_LEFT):
            return known.access_token
        try:
            self._token = self._fetch()
        except TemporarilyUnavailable:
            if known is not None and known.lasts(LEAST_SECONDS_LEFT):
                return known.access_token
            raise
        return self._token.access_token

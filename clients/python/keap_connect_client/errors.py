"""What can be raised; no message holds a token or a key.

KeapConnectError
  TemporarilyUnavailable  nothing is lost: come back in `retry_after_seconds`
  ReconnectRequired       a person must connect the account again: an admin at `reconnect_url`, the customer
                          by a link that `KeapConnect.reconnect_link` makes
  KeyRefused              the API key is unknown, revoked or expired, or may not do this
  AccountNotFound         there is no such account, or the key may not see it
  RequestRefused          Keap Connect did not understand the request
  NotKeap                 a token was about to be sent to a host that is not Keap's; it was not
"""


class KeapConnectError(Exception):
    """The root of the tree. `request_id` is what Keap Connect's log knows the request by, when it has answered."""

    request_id: str | None = None

    def __str__(self) -> str:
        """Return the message, with the id that finds it in the log."""
        message = super().__str__()
        return message if self.request_id is None else f"{message} (request {self.request_id})"


class TemporarilyUnavailable(KeapConnectError):
    """There is no token right now. Nothing is lost, and asking again later may succeed."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ReconnectRequired(KeapConnectError):
    """The grant is dead or was disconnected; only a person can bring it back."""

    def __init__(self, message: str, reconnect_url: str | None, is_disconnected: bool) -> None:
        super().__init__(message)
        self.reconnect_url = reconnect_url
        self.is_disconnected = is_disconnected


class KeyRefused(KeapConnectError):
    """The API key does not open this."""


class AccountNotFound(KeapConnectError):
    """There is no such account for this key."""


class RequestRefused(KeapConnectError):
    """The request was not understood: a wrong account name, or a `min_validity` out of range."""


class NotKeap(KeapConnectError):
    """The request does not go to Keap, so no token was put on it."""

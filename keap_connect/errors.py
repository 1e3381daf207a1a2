"""Everything this program raises on purpose; each edge (pages, commands) turns it into its own words.

KeapConnectError
  SettingsError           the environment is not fit to start with; `problems` lists all of it
  SealBroken              a stored secret does not open: wrong key, moved or edited ciphertext
  AccountNotFound         no such account, or not one that the asker may see
  ReconnectRequired       Keap refused the grant for good, or it aged out: a person must authorize again
  AccountDisconnected     we forgot the tokens on request
  TemporarilyUnavailable  nothing is lost; try again after `retry_after_seconds`
  ClientMisconfigured     Keap refused our own client id or secret: no account's fault, one alarm
  TenantConflict          Keap named two different tenants for one grant
  PasswordRefused         a new password breaks a rule; the message says which
  TooManyAttempts         sign-in is throttled for `retry_after_seconds`
  APIKeyUnfit             a new API key breaks a rule; the message says which
  APIKeyNotFound          there is no such API key to revoke
  APIKeyRefused           unknown, revoked and expired keys alike: the program is told no more
  InsufficientScope       the API key may not do this; `scope` names what it lacks
  HandOutUnrecorded       the audit log cannot be written, so no token is handed out
  ExternalIdTaken         another account has this external id already
  CredentialRefused       Keap does not know a credential that was to be imported, or it may not be used here
  ImportConflict          the Idempotency-Key belongs to another import, or to one under way

What Keap's token endpoint answers is not an exception but a `Judgement` (keap/judgement.py).
"""


class KeapConnectError(Exception):
    """The root of the tree."""


class SettingsError(KeapConnectError):
    """The settings are not fit to start with."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SealBroken(KeapConnectError):
    """A sealed value does not open with any key of the ring, at the place it was found."""


class AccountNotFound(KeapConnectError):
    """There is no such account, or the asker may not know of it."""


class ReconnectRequired(KeapConnectError):
    """A person must authorize again."""


class AccountDisconnected(KeapConnectError):
    """The tokens were forgotten on request."""


class TemporarilyUnavailable(KeapConnectError):
    """Nothing is lost; asking again later may succeed."""

    def __init__(self, message: str, retry_after_seconds: int = 30) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ClientMisconfigured(KeapConnectError):
    """Keap refused our client id or secret; the accounts themselves are fine."""


class TenantConflict(KeapConnectError):
    """Keap named two different tenants for one grant, so it belongs to neither here."""


class PasswordRefused(KeapConnectError):
    """A new password breaks a rule."""


class TooManyAttempts(KeapConnectError):
    """Sign-in is throttled."""

    def __init__(self, retry_after_seconds: int) -> None:
        minutes = -(-retry_after_seconds // 60)
        super().__init__(f"Too many attempts. Try again in {minutes} minute{'' if minutes == 1 else 's'}.")
        self.retry_after_seconds = retry_after_seconds


class APIKeyUnfit(KeapConnectError):
    """A new API key breaks a rule."""


class APIKeyNotFound(KeapConnectError):
    """There is no such API key."""


class APIKeyRefused(KeapConnectError):
    """The API key is unknown, revoked or expired; which of these is nobody's business."""


class InsufficientScope(KeapConnectError):
    """The API key is valid, and may not do this."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key lacks the scope {scope}.")
        self.scope = scope


class HandOutUnrecorded(KeapConnectError):
    """The audit log cannot be written, so no token is handed out."""


class ExternalIdTaken(KeapConnectError):
    """Another account has this external id already."""


class CredentialRefused(KeapConnectError):
    """Keap does not know a credential that was to be imported, or it may not be used here."""


class ImportConflict(KeapConnectError):
    """The Idempotency-Key belongs to another import, or to one that is still under way."""

"""Everything this program raises on purpose; each edge (pages, commands) turns it into its own words.

KeapConnectError
  SettingsError           the environment is not fit to start with; `problems` lists all of it
    DatabaseSilent        the database that the settings name does not answer
  SealBroken              a stored secret does not open: wrong key, moved or edited ciphertext
  AccountNotFound         no such account, or not one that the asker may see
  ReconnectRequired       Keap refused the grant for good, or it aged out: a person must authorize again
  AccountDisconnected     we forgot the tokens on request
  NotRefreshable          the credential is a key: it does not expire, so there is nothing to refresh
  TemporarilyUnavailable  nothing is lost; try again after `retry_after_seconds`
    ServerBusy            more requests are arriving or waiting than this process takes
    KeapBusy              Keap was not asked, since people cause too many calls to it; nothing was used up
  ClientMisconfigured     Keap refused our own client id or secret: no account's fault, one alarm
  TenantConflict          Keap named two different tenants for one grant
  LinkGone                a reconnect link is unknown, used, expired or revoked; which one, nobody is told
  NameRefused             a label or external id breaks a rule; the message says which, `field` where
    ExternalIdTaken       another account has this external id already
  ImportRefused           what was to be imported was not stored; the message says why
    CredentialRefused     Keap refuses the token or key itself
    WouldReplace          what is stored works and might be ended by it; who brings it may say that it is meant
    LinesRefused          a file was not stored, since of some lines each has a problem: `problems` by line number
  AdminNotFound           no such admin
  AdminRefused            nobody can be made an admin under that e-mail address; the message says why
  LastAdmin               nobody would be left who may act
  FormUsed                a form that works once was sent a second time
  PasswordRefused         a new password breaks a rule; the message says which
  CodeRefused             a code is wrong, used or too old
  PasswordLinkGone        a link to choose a password is unknown, used, replaced or too old
  TooManyAttempts         sign-in is throttled for `retry_after_seconds`
  TooManyRequests         a key or an address comes too often; try again after `retry_after_seconds`
  APIKeyUnfit             a new API key breaks a rule; the message says which
  APIKeyNotFound          there is no such API key to revoke
  APIKeyRefused           unknown, revoked and expired keys alike: the program is told no more
  InsufficientScope       the API key may not do this; `scope` names what it lacks
  HandOutUnrecorded       the audit log cannot be written, so no token is handed out

What Keap's token endpoint answers is not an exception but a `Classification` (keap/classified.py).
"""


class KeapConnectError(Exception):
    """The root of the tree."""


class SettingsError(KeapConnectError):
    """The settings are not fit to start with."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    @property
    def report(self) -> str:
        """What a program says when it ends because of them."""
        return "Keap Connect does not start:\n" + "\n".join(f"- {problem}" for problem in self.problems)


class DatabaseSilent(SettingsError):
    """The database that the settings name does not answer: it is down, or the wrong one is named."""


class DatabaseDamaged(SettingsError):
    """The database file is damaged; nothing was changed."""

    def __init__(self, damage: str) -> None:
        advice = "Restore the newest backup: ./keap-connect database restore FILE (it keeps the damaged file aside)."
        super().__init__([f"The database file is damaged ({damage}). {advice}"])


class BackupRefused(KeapConnectError):
    """A backup was not made or not restored, and nothing was changed."""


class SealBroken(KeapConnectError):
    """A sealed value does not open with any key of the ring, at the place it was found."""


class AccountNotFound(KeapConnectError):
    """There is no such account, or the asker may not know of it."""


class ReconnectRequired(KeapConnectError):
    """A person must authorize again."""


class AccountDisconnected(KeapConnectError):
    """The tokens were forgotten on request."""


class NotRefreshable(KeapConnectError):
    """A key does not expire, so there is nothing to refresh."""


class TemporarilyUnavailable(KeapConnectError):
    """Nothing is lost; asking again later may succeed."""

    def __init__(self, message: str, retry_after_seconds: int = 30) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class ServerBusy(TemporarilyUnavailable):
    """More requests are arriving or waiting than this process takes; nothing was done."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_seconds=10)


class KeapBusy(TemporarilyUnavailable):
    """People cause too many calls to Keap, so this one was not made; nothing was used up."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("Keap is busy: too many calls to it are under way. Try again soon.", retry_after_seconds)


class ClientMisconfigured(KeapConnectError):
    """Keap refused our client id or secret; the accounts themselves are fine."""


class TenantConflict(KeapConnectError):
    """Keap named two different tenants for one grant, so it belongs to neither here."""


class LinkGone(KeapConnectError):
    """A reconnect link that opens nothing, or nothing any more."""


class NameRefused(KeapConnectError):
    """A label or external id breaks a rule."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ExternalIdTaken(NameRefused):
    """Another account has this external id already."""

    def __init__(self, message: str = "Another account has this external id already.") -> None:
        super().__init__("external_id", message)


class ImportRefused(KeapConnectError):
    """A credential or a file of them was not stored, and nothing was changed."""


class CredentialRefused(ImportRefused):
    """Keap refuses the token or key itself."""


class WouldReplace(ImportRefused):
    """What is stored works, and what would take its place may be stale."""


class LinesRefused(ImportRefused):
    """A file was not stored because of some of its lines."""

    def __init__(self, problems: dict[int, str]) -> None:
        super().__init__("\n".join(f"Line {number}: {problem}" for number, problem in sorted(problems.items())))
        self.problems = problems


class AdminNotFound(KeapConnectError):
    """There is no such admin."""


class AdminRefused(KeapConnectError):
    """Nobody can be made an admin under that e-mail address."""


class LastAdmin(KeapConnectError):
    """Nobody would be left who may act."""


class FormUsed(KeapConnectError):
    """A form that works once was sent a second time."""


class PasswordRefused(KeapConnectError):
    """A new password breaks a rule."""


class PasswordLinkGone(KeapConnectError):
    """A link to choose a password is unknown, used, replaced or too old."""


class CodeRefused(KeapConnectError):
    """A code is wrong, used or too old."""


class TooManyAttempts(KeapConnectError):
    """Sign-in is throttled."""

    def __init__(self, retry_after_seconds: int) -> None:
        minutes = -(-retry_after_seconds // 60)
        super().__init__(f"Too many attempts. Try again in {minutes} minute{'' if minutes == 1 else 's'}.")
        self.retry_after_seconds = retry_after_seconds


class TooManyRequests(KeapConnectError):
    """A key or an address comes too often."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("Too many requests. Come back later.")
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

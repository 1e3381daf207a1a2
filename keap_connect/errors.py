"""Every error that this program raises on purpose, and how pages, API and commands answer it.

An answer of Keap's token endpoint is not an exception but a `Classification` (keap/answers.py).
"""

from enum import IntEnum


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    NOTHING_TO_DO = 3
    COME_BACK_LATER = 4
    PERSON_MUST_RECONNECT = 5


class KeapConnectError(Exception):
    """The base of all of them. Its message says in one sentence what happened."""

    status = 500  # HTTP status in the API and of the page
    code = "failed"  # `error` in the API and with --json
    exit_code = ExitCode.FAILED
    retry_after_seconds: int | None = None
    # Of the error page. Without a heading, the page says that the fault is ours; {} in the advice is the message.
    heading = ""
    advice = ""


class SettingsError(KeapConnectError):
    """The app cannot start; `problems` lists everything that is wrong with settings or database."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)

    @property
    def report(self) -> str:
        return "Keap Connect does not start:\n" + "\n".join(f"- {problem}" for problem in self.problems)


class DatabaseSilent(SettingsError):
    """The database does not answer: it is down, or DATABASE_URL names the wrong one."""

    code, exit_code = "temporarily_unavailable", ExitCode.COME_BACK_LATER


class DatabaseDamaged(SettingsError):
    def __init__(self, damage: str) -> None:
        advice = "Restore the newest backup: ./keap-connect database restore FILE (it keeps the damaged file aside)."
        super().__init__(f"The database file is damaged ({damage}). {advice}")


class BackupRefused(KeapConnectError):
    """A backup was not made or not restored, and nothing was changed."""


class SealBroken(KeapConnectError):
    """A stored value does not open. The operator has to put its key back, or a person has to authorize again."""

    status, code = 409, "unreadable"
    heading = "A stored secret does not open"
    advice = "It was sealed with another key, or edited. It was left as it is, and other accounts are not affected."


class SealingKeyUnknown(SealBroken):
    """TOKEN_KEYS lacks the key that sealed it, or another version of this program did."""


class NotFound(KeapConnectError):
    status, code = 404, "not_found"


class AccountNotFound(NotFound):
    """There is no such account, or the caller may not know of it."""

    heading, advice = "There is no such account", "{} Look for it in the list of accounts."


class AccountAmbiguous(KeapConnectError):
    """Several accounts of one tenant have the name that was given."""

    status, code = 409, "account_ambiguous"


class ReconnectRequired(KeapConnectError):
    """Keap refused the grant for good, or it expired: a person must authorize again."""

    status, code, exit_code = 409, "reconnect_required", ExitCode.PERSON_MUST_RECONNECT


class AccountDisconnected(KeapConnectError):
    status, code, exit_code = 409, "disconnected", ExitCode.PERSON_MUST_RECONNECT


class NotRefreshable(KeapConnectError):
    """The credential is a key: it does not expire, so there is nothing to refresh."""

    status, code = 409, "not_refreshable"


class TemporarilyUnavailable(KeapConnectError):
    """Nothing is lost; try again after `retry_after_seconds`."""

    status, code, exit_code = 503, "temporarily_unavailable", ExitCode.COME_BACK_LATER
    heading, advice = "Try again in a minute", "{} Nothing is lost."

    def __init__(self, message: str, retry_after_seconds: int = 30) -> None:
        super().__init__(message)
        self.retry_after_seconds: int = retry_after_seconds


class ServerBusy(TemporarilyUnavailable):
    """More requests arrive or wait than this process accepts; nothing was done."""

    heading, advice = "Too many requests arrive at once", "Nothing was changed. Try again in a minute."

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_seconds=10)


class KeapBusy(TemporarilyUnavailable):
    """People caused too many calls to Keap, so this one was not sent; no token or code was used."""

    heading = "Keap is busy, try again"
    advice = "Many requests wait for Keap at the moment, so yours was not sent yet. Nothing is lost."

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("Keap is busy: too many calls to it are under way. Try again soon.", retry_after_seconds)


class ClientMisconfigured(KeapConnectError):
    """Keap refused our client id or secret; no account is at fault."""

    status, code, exit_code = 503, "temporarily_unavailable", ExitCode.COME_BACK_LATER
    retry_after_seconds = 300  # a person has to correct it


class HandOutUnrecorded(KeapConnectError):
    status, code, exit_code = 503, "temporarily_unavailable", ExitCode.COME_BACK_LATER
    retry_after_seconds = 300  # a person has to correct it
    heading = "The audit log cannot be written"
    advice = "Until it can be, no token is shown. Ask the operator of this app to check AUDIT_LOG and the disk."


class TenantConflict(KeapConnectError):
    """Keap named two different tenants for one grant, so it is stored for neither."""

    status, code = 409, "credential_refused"


class LinkGone(KeapConnectError):
    """A link is unknown, used, expired or revoked; the page does not say which."""


class InvitationNotFound(NotFound):
    heading, advice = "There is no such invitation", "It may have been deleted: KEEP_LINKS says when."


class InvitationClosed(KeapConnectError):
    """In its present state, an invitation cannot do what was asked for."""

    status, code = 409, "invitation_closed"
    heading, advice = "That is not possible any longer", "{} Nothing was changed."


class FormRefused(KeapConnectError):
    """What was typed breaks a rule. Pages show the message at the input that `field` names, with `form_status`."""

    field = ""
    form_status = 422

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field or self.field


class NameRefused(FormRefused):
    status, code = 400, "invalid_request"


class ExternalIdTaken(NameRefused):
    status, code = 409, "external_id_taken"

    def __init__(self, message: str = "Another account has this external id already.") -> None:
        super().__init__(message, "external_id")


class InvitationRefused(FormRefused):
    status, code = 409, "invitation_refused"


class ImportRefused(FormRefused):
    """A credential or a file of them was not stored, and nothing was changed."""

    status, code = 409, "credential_refused"
    field = "access_token"


class CredentialRefused(ImportRefused):
    """Keap refused the token or key itself."""


class WouldReplace(ImportRefused):
    """The import might end a stored credential that works; the caller may confirm that with `replace`."""

    field = "replace"


class UnusualKey(ImportRefused):
    """A key does not begin as Keap's keys do; the caller may confirm it with `unusual_key`."""

    field = "unusual_key"


class JobNotFound(NotFound):
    heading, advice = "There is no such job", "Its results are deleted a week after its end."


class AdminNotFound(NotFound):
    heading, advice = "There is no such admin", "They may have been removed, or never existed."


class UnsubscribeLinkGone(NotFound):
    """The link of a mail that ends these mails is incomplete, changed, or for somebody who is no longer an admin."""

    heading = "This link does not work"
    advice = "{} Sign in, and choose on your profile page which mails you get."


class MailNotNeeded(KeapConnectError):
    """A mail waits to be sent, and nobody needs it any more; the message says why."""


class PasswordLinkGone(NotFound):
    heading = "This link does not work"
    advice = (
        "A link to choose a password works once, within a day, or until the time in the invitation. A newer link ends "
        "it. Ask an admin, or the operator of this app, for a new one."
    )


class WrongPassword(FormRefused):
    """The password, or the code that is asked for after it, is wrong."""

    field = "password"
    form_status = 401


class TooOften(KeapConnectError):
    """Nothing was done; try again after `retry_after_seconds`."""

    status, code = 429, "too_many_requests"
    heading, advice = "Try again later", "{} Nothing was checked, and nothing was changed."

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds: int = retry_after_seconds


class TooManyAttempts(TooOften):
    def __init__(self, retry_after_seconds: int) -> None:
        minutes = -(-retry_after_seconds // 60)
        message = f"Too many attempts. Try again in {minutes} minute{'' if minutes == 1 else 's'}."
        super().__init__(message, retry_after_seconds)


class SignInThrottled(TooManyAttempts):
    """Too many wrong guesses at an admin's password, perhaps by others."""

    advice = (
        "{} Nothing was checked. If you cannot wait, ask the operator of this app for a sign-in code "
        "(./keap-connect admins sign-in-code), and enter it on the sign-in page with your password."
    )


class TooManyRequests(TooOften):
    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("Too many requests. Come back later.", retry_after_seconds)


class WebhookNotFound(NotFound):
    heading, advice = "There is no such webhook", "It may have been removed."


class DeliveryNotFound(NotFound):
    heading, advice = "There is no such delivery", "It may have been deleted: KEEP_DELIVERIES says when."


class WebhookUnfit(FormRefused):
    """Webhooks may not go to this URL, or there are too many of them."""

    status, code = 409, "webhook_refused"


class SecretIsNew(KeapConnectError):
    """The receiver may still have the secret before the present one, and a third one would end it."""

    status, code = 409, "secret_is_new"
    heading = "A secret was made less than a day ago"
    advice = "If the secret is known to others, remove the webhook and add it again."


class WebhookOff(KeapConnectError):
    status, code = 409, "webhook_off"
    heading, advice = "This webhook is switched off", "Switch it on first."


class APIKeyNotFound(NotFound):
    heading, advice = "There is no such API key", "The address is wrong."


class APIKeyRefused(KeapConnectError):
    """The API key is unknown, revoked or expired; the answer does not say which."""

    status, code = 401, "invalid_token"


class InsufficientScope(KeapConnectError):
    status, code = 403, "insufficient_scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key lacks the scope {scope}.")
        self.scope: str | None = scope


class KeyRestricted(InsufficientScope):
    """No scope would help: the key is only for some accounts."""

    def __init__(self, act: str) -> None:
        KeapConnectError.__init__(self, f"This API key is only for some accounts, so it cannot {act}.")
        self.scope = None

"""The words for each ending of the OAuth flow: what happened, and what to do next."""

from dataclasses import dataclass

from keap_connect.connect.endings import Ending

NOTHING_CHANGED = "Nothing was changed, and nothing was lost."


@dataclass(frozen=True)
class EndingWords:
    """How a page describes one ending. `next_is_post` starts the flow again, otherwise the next step is a link.

    The paragraphs may name {service} and, after a success, {account}.
    """

    status: int
    tone: str
    heading: str
    paragraphs: tuple[str, ...]
    next_label: str = "Connect Keap again"
    next_is_post: bool = True


def _success(heading: str, *paragraphs: str) -> EndingWords:
    return EndingWords(200, "success", heading, paragraphs, "Your accounts", next_is_post=False)


def _attention(heading: str, what_happened: str, *more: str) -> EndingWords:
    return EndingWords(200, "attention", heading, (f"{what_happened} {NOTHING_CHANGED}", *more))


def _failed(status: int, heading: str, what_happened: str, *more: str) -> EndingWords:
    return EndingWords(status, "failed", heading, (f"{what_happened} {NOTHING_CHANGED}", *more))


WORDS: dict[str, EndingWords] = {
    Ending.CONNECTED: _success(
        "Your Keap account is connected",
        "You are done. {service} can now work with {account}. You can close this page.",
    ),
    Ending.CONNECTED_PENDING: _success(
        "Connected; the details follow",
        "{service} can now work with your Keap account, but Keap has not told us yet which one it is. Its name appears "
        "here as soon as Keap sends it. You can close this page.",
    ),
    Ending.RECONNECTED: _success(
        "Your Keap account is connected again",
        "You are done. {service} can work with {account} again. You can close this page.",
    ),
    Ending.PERSON_CHANGED: _success(
        "Reconnected by another person",
        "You are done. {service} can work with {account} again. Another person allowed it this time: from now on the "
        "connection has that person's rights in Keap.",
    ),
    Ending.OTHER_PERSON_UPDATED: _success(
        "Your own connection was updated",
        "You already had a connection of your own to {account}, and it is renewed. The connection that was to be "
        "reconnected was not changed.",
    ),
    Ending.OTHER_TENANT_UPDATED: _success(
        "Another Keap account was updated",
        "At Keap you chose {account}, which you had connected before, and its connection is renewed. The account that "
        "was to be reconnected was not changed.",
    ),
    Ending.DISCARDED: _attention(
        "The other account was not connected",
        "The access you allowed for the other Keap account is deleted here, as you asked.",
    ),
    Ending.DECISION_EXPIRED: _attention(
        "The decision was not made in time",
        "You chose another Keap account than the one to reconnect. The access you allowed was kept for ten minutes and "
        "is deleted now.",
    ),
    Ending.CONFIRMATION_DECLINED: EndingWords(
        200,
        "attention",
        "Your Keap account was not connected",
        (
            "{service} expected another Keap account. The access you allowed is deleted here; an account that was "
            "connected before stays connected.",
            "If that is a mistake, ask {service}. To choose another Keap account, use your link again.",
        ),
    ),
    Ending.IDENTITY_PENDING: EndingWords(
        200,
        "attention",
        "Keap has not named your account yet",
        (
            "You have nothing more to do. The access you allowed is stored encrypted, and not used yet. We ask Keap "
            "every ten minutes, for a day, whose account it is, and connect it as soon as Keap answers.",
        ),
        "Look again",
        next_is_post=False,
    ),
    Ending.DENIED: _attention(
        "Keap says: access denied",
        "Either Deny was pressed at Keap, or the login has no Keap account: then Keap says the same even after Allow.",
        "If you meant to allow it, sign in at Keap with the login that opens your Keap account. If you have none, ask "
        "the owner of the Keap account to invite you.",
    ),
    Ending.KEAP_ERROR: _attention(
        "Keap could not finish this",
        "Keap sent you back with an error of its own.",
        "Try again in a minute. If it keeps happening, ask {service}: it may be set up wrongly at Keap.",
    ),
    Ending.STATE_MISSING: _failed(
        400,
        "This visit does not belong to a connection",
        "The address does not say which connection it is about. That happens with a saved or shortened address.",
    ),
    Ending.STATE_UNKNOWN: _failed(
        400, "This link is not known here", "It is from a connection that ended long ago, or it is not from here."
    ),
    Ending.STATE_EXPIRED: _failed(
        400,
        "That took longer than ten minutes",
        "For your safety, a connection has to be finished within ten minutes after it was started.",
    ),
    Ending.STATE_FOREIGN: _failed(
        400,
        "This was started in another browser",
        "A connection has to be finished in the browser it was started in. A private window, or one whose cookies were "
        "deleted or are blocked, counts as another browser.",
    ),
    Ending.CODE_MISSING: _failed(
        400,
        "Keap's answer was not complete",
        "The answer from Keap contained neither a permission nor an error.",
        "Press the button to try again.",
    ),
    Ending.WRONG_ISSUER: _failed(
        400, "The answer came from somewhere else", "The answer names another sender than Keap, so it was not used."
    ),
    Ending.LINK_GONE: _failed(
        400,
        "This link no longer works",
        "While you were at Keap, the account was connected again in another way, or your link was used or revoked.",
        "If nobody connected it, ask {service} for a new link.",
    ),
    Ending.DISCONNECTED: _failed(
        400,
        "The account was disconnected meanwhile",
        "While you were at Keap, somebody disconnected this account here, so your permission was not stored.",
        "To connect it all the same, start again.",
    ),
    Ending.CODE_REFUSED: _failed(
        502,
        "Keap did not accept its own permission",
        "Keap gave you a permission and then refused it: it was too old, or used already. An old sign-in at Keap can "
        "cause this too: sign out there, then try again.",
    ),
    Ending.CLIENT_REFUSED: _failed(
        502,
        "Keap does not accept this app at the moment",
        "You did everything right. Keap refused the credentials of {service}, and only {service} can correct them.",
    ),
    Ending.KEAP_BUSY: _failed(
        503,
        "Keap is busy",
        "Keap asked us to slow down before it finished your connection.",
        "Wait a minute, then try again.",
    ),
    Ending.KEAP_UNREACHABLE: _failed(
        503,
        "Keap cannot be reached",
        "We could not reach Keap to finish your connection.",
        "Try again in a few minutes. status.keap.com shows whether Keap knows of a problem.",
    ),
    Ending.KEAP_TROUBLE: _failed(
        503,
        "Keap has a problem at the moment",
        "You allowed access, but we could not use Keap's answer. Connected accounts are not affected.",
        "Try again in a few minutes.",
    ),
    Ending.TENANT_CONFLICT: _failed(
        502,
        "Keap named two different accounts",
        "Keap's answers contradict each other about which Keap account this is, so it was not stored.",
        "Try again in a few minutes.",
    ),
    Ending.INTERRUPTED: _failed(
        503,
        "The connection was interrupted",
        "This app was interrupted while it finished your connection, so your permission was not stored.",
    ),
}

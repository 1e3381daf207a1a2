"""The words for each ending of the journey: what happened, that nothing is lost, and what to press next."""

from dataclasses import dataclass

from keap_connect.connect.endings import Ending

AGAIN = "Connect Keap again"
ACCOUNTS = "Your accounts"


@dataclass(frozen=True)
class EndingWords:
    """How a page tells one ending. `next_is_post` starts the journey anew, otherwise it is a link."""

    code: str
    status: int
    tone: str
    heading: str
    paragraphs: tuple[str, ...]
    next_label: str = AGAIN
    next_is_post: bool = True
    next_url: str = ""


def _success(ending: Ending, heading: str, *paragraphs: str) -> EndingWords:
    return EndingWords(ending, 200, "success", heading, paragraphs, ACCOUNTS, next_is_post=False)


def _attention(ending: Ending, status: int, heading: str, *paragraphs: str) -> EndingWords:
    return EndingWords(ending, status, "attention", heading, paragraphs)


def _failed(ending: Ending, status: int, heading: str, *paragraphs: str) -> EndingWords:
    return EndingWords(ending, status, "failed", heading, paragraphs)


NOTHING_CHANGED = "Nothing was changed, and nothing was lost."

WORDS = {
    words.code: words
    for words in (
        _success(
            Ending.CONNECTED,
            "Your Keap account is connected",
            "It stays connected by itself from now on. You can close this page.",
        ),
        _success(
            Ending.CONNECTED_PENDING,
            "Connected; the details follow",
            "Keap allowed the connection, but did not tell us yet whose account it is.",
            "The connection is stored and works. Its name appears here as soon as Keap tells it.",
        ),
        _success(
            Ending.RECONNECTED,
            "Your Keap account is connected again",
            "It was connected before, so it keeps its place and its history and has fresh tokens now.",
        ),
        _success(
            Ending.PERSON_CHANGED,
            "Reconnected by another person",
            "The Keap account is the same, but somebody else allowed it this time. From now on the connection acts "
            "with that person's rights in Keap.",
        ),
        _success(
            Ending.OTHER_PERSON_UPDATED,
            "Your own connection was updated",
            "You allowed access to the same Keap account, and you already had a connection of your own to it. That "
            "one has fresh tokens now; the one that was to be reconnected was left as it is.",
        ),
        _success(
            Ending.OTHER_TENANT_UPDATED,
            "Another Keap account was updated",
            "At Keap you chose another account than the one that was to be reconnected. You had connected it before, "
            "so it has fresh tokens now; the one that was to be reconnected was left as it is.",
        ),
        EndingWords(
            Ending.DISCARDED,
            200,
            "attention",
            "Everything is as it was",
            ("The access you allowed for the other Keap account was thrown away here, as you asked.",),
        ),
        _attention(
            Ending.DECISION_EXPIRED,
            200,
            "The decision was not made in time",
            "You chose another Keap account than the one to reconnect, and the access you allowed was kept for ten "
            "minutes only. " + NOTHING_CHANGED,
        ),
        _attention(
            Ending.DENIED,
            200,
            "Keap says: access denied",
            "Either Deny was pressed at Keap, or the login has no Keap application attached: then Keap says the same "
            "even after Allow. " + NOTHING_CHANGED,
            "If you meant to allow it, sign in at Keap with the login that opens your Keap app. If you have none, ask "
            "the owner of the Keap account to invite you.",
        ),
        _attention(
            Ending.KEAP_ERROR,
            200,
            "Keap could not finish this",
            "Keap sent you back with an error of its own. " + NOTHING_CHANGED,
            "Try again in a minute. If it stays, tell us what Keap said below: the registration of this app at Keap "
            "may need a look.",
        ),
        _failed(
            Ending.STATE_MISSING,
            400,
            "This visit does not belong to a connection",
            "You came back without the sign that tells us which connection this is about. That happens with a saved "
            "or shortened address. " + NOTHING_CHANGED,
        ),
        _failed(
            Ending.STATE_UNKNOWN,
            400,
            "This link is not known here",
            "It is from a connection that ended long ago, or it did not come from here. " + NOTHING_CHANGED,
        ),
        _failed(
            Ending.STATE_EXPIRED,
            400,
            "That took longer than ten minutes",
            "For your safety, a connection that was started has to be finished within ten minutes. " + NOTHING_CHANGED,
        ),
        _failed(
            Ending.STATE_FOREIGN,
            400,
            "This was started in another browser",
            "A connection has to be finished in the browser it was started in; in a private window or after clearing "
            "cookies it cannot be recognized. " + NOTHING_CHANGED,
        ),
        _failed(
            Ending.CODE_MISSING,
            400,
            "Keap sent you back empty-handed",
            "The answer from Keap had neither a permission nor an error in it. " + NOTHING_CHANGED,
            "Press the button to try again; the ten minutes of this connection are still running.",
        ),
        _failed(
            Ending.WRONG_ISSUER,
            400,
            "The answer came from somewhere else",
            "The answer names another sender than Keap, so it was not used. " + NOTHING_CHANGED,
        ),
        _failed(
            Ending.LINK_GONE,
            400,
            "This link has done its work already",
            "While you were at Keap, the link you came by was used in another browser, or taken back. "
            + NOTHING_CHANGED,
            "Ask the person who sent you the link for a new one.",
        ),
        _failed(
            Ending.CODE_REFUSED,
            502,
            "Keap did not accept its own permission",
            "Keap gave you a permission and then refused it: it may have been too old, or used already. "
            "An old sign-in at Keap can cause this too: sign out there, then try again. " + NOTHING_CHANGED,
        ),
        _failed(
            Ending.CLIENT_REFUSED,
            502,
            "Keap does not accept this app at the moment",
            "You did everything right. Keap refused this app's own credentials, and only its operator can mend that; "
            "the details are in the log. " + NOTHING_CHANGED,
        ),
        _failed(
            Ending.KEAP_BUSY,
            503,
            "Keap is busy",
            "Keap asked us to slow down before it finished your connection. " + NOTHING_CHANGED,
            "Wait a minute, then try again.",
        ),
        _failed(
            Ending.KEAP_UNREACHABLE,
            503,
            "Keap cannot be reached",
            "We could not reach Keap to finish your connection. " + NOTHING_CHANGED,
            "Try again in a few minutes. status.keap.com tells whether Keap knows of a problem.",
        ),
        _failed(
            Ending.KEAP_TROUBLE,
            503,
            "Keap has trouble at the moment",
            "You allowed access, but Keap's answer to us could not be used. Connected accounts are not affected, and "
            "nothing of yours was lost.",
            "Try again in a few minutes.",
        ),
        _failed(
            Ending.TENANT_CONFLICT,
            502,
            "Keap named two different accounts",
            "Keap's answers contradict each other about which Keap account this is, so it was not stored: it could "
            "have ended in the wrong place. " + NOTHING_CHANGED,
            "Try again. If it stays, tell the operator what is said below.",
        ),
        _failed(
            Ending.INTERRUPTED,
            503,
            "The connection was interrupted",
            "This app was interrupted while it finished your connection, so your permission was not stored. "
            + NOTHING_CHANGED,
        ),
    )
}

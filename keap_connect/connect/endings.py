"""Every way in which connecting can end; web/ending_words.py has the text of each."""

from enum import StrEnum


class Ending(StrEnum):
    """The values are stored with the flow; those without a flow are in URLs."""

    # The grant is stored.
    CONNECTED = "connected"
    CONNECTED_PENDING = "connected_pending"
    RECONNECTED = "reconnected"
    PERSON_CHANGED = "person_changed"
    OTHER_PERSON_UPDATED = "other_person_updated"
    OTHER_TENANT_UPDATED = "other_tenant_updated"
    # The grant waits for a decision.
    DECISION_PENDING = "decision_pending"
    DISCARDED = "discarded"
    DECISION_EXPIRED = "decision_expired"
    # The grant came by an invitation, and waits for an admin or a program to confirm who connected.
    CONFIRMATION_PENDING = "confirmation_pending"
    CONFIRMATION_DECLINED = "confirmation_declined"
    CONFIRMATION_EXPIRED = "confirmation_expired"
    # It waits until Keap says whose it is: CONNECT_MODE=invitation, and it was to reconnect an account.
    IDENTITY_PENDING = "identity_pending"
    # Keap, or the person there, said no.
    DENIED = "denied"
    KEAP_ERROR = "keap_error"
    # The callback does not belong to a flow here, or is incomplete.
    STATE_MISSING = "state_missing"
    STATE_UNKNOWN = "state_unknown"
    STATE_EXPIRED = "state_expired"
    STATE_FOREIGN = "state_foreign"
    CODE_MISSING = "code_missing"
    WRONG_ISSUER = "wrong_issuer"
    LINK_GONE = "link_gone"
    # The code exchange failed.
    CODE_REFUSED = "code_refused"
    CLIENT_REFUSED = "client_refused"
    KEAP_BUSY = "keap_busy"
    KEAP_UNREACHABLE = "keap_unreachable"
    KEAP_TROUBLE = "keap_trouble"
    TENANT_CONFLICT = "tenant_conflict"
    INTERRUPTED = "interrupted"

    @property
    def is_success(self) -> bool:
        """Whether a grant was stored, which proves who the person is."""
        return self in STORED


STORED = {
    Ending.CONNECTED,
    Ending.CONNECTED_PENDING,
    Ending.RECONNECTED,
    Ending.PERSON_CHANGED,
    Ending.OTHER_PERSON_UPDATED,
    Ending.OTHER_TENANT_UPDATED,
}
# Why nothing was stored, in the words of the log, the history and the list of journeys.
FAILURES = {
    Ending.DISCARDED: "another Keap account was chosen, and then not wanted",
    Ending.DECISION_EXPIRED: "another Keap account was chosen, and nobody decided in time",
    Ending.CONFIRMATION_DECLINED: "an admin declined who had connected",
    Ending.CONFIRMATION_EXPIRED: "nobody confirmed in time who had connected",
    Ending.DENIED: "access was denied at Keap",
    Ending.KEAP_ERROR: "Keap sends people back with an error",
    Ending.STATE_EXPIRED: "they came back from Keap after more than ten minutes",
    Ending.WRONG_ISSUER: "the answer names another sender than Keap",
    Ending.LINK_GONE: "the link was used or revoked meanwhile",
    Ending.CODE_REFUSED: "Keap refuses the code that it gave",
    Ending.CLIENT_REFUSED: "Keap refuses this app",
    Ending.KEAP_BUSY: "Keap asks this app to slow down",
    Ending.KEAP_UNREACHABLE: "Keap cannot be reached",
    Ending.KEAP_TROUBLE: "Keap gives no usable answer",
    Ending.TENANT_CONFLICT: "Keap names two different accounts",
    Ending.INTERRUPTED: "this app was interrupted",
}

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

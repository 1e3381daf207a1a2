"""Every way in which connecting can end; web/ending_words.py has the text of each."""

from enum import StrEnum

STORED, WAITS, FAILED = "stored", "waits", "failed"


class Ending(StrEnum):
    """The values are stored with the flow; those without a flow are in URLs.

    `outcome` says in the log, the history and the list of journeys why nothing was stored, or what the grant waits for.
    """

    group: str
    outcome: str

    def __new__(cls, value: str, group: str = "", outcome: str = "") -> "Ending":
        ending = str.__new__(cls, value)
        ending._value_, ending.group, ending.outcome = value, group, outcome
        return ending

    CONNECTED = "connected", STORED
    CONNECTED_PENDING = "connected_pending", STORED
    RECONNECTED = "reconnected", STORED
    PERSON_CHANGED = "person_changed", STORED
    OTHER_PERSON_UPDATED = "other_person_updated", STORED
    OTHER_TENANT_UPDATED = "other_tenant_updated", STORED
    DECISION_PENDING = "decision_pending", WAITS, "another Keap account waits for a decision"
    DISCARDED = "discarded", FAILED, "another Keap account was chosen, and then not wanted"
    DECISION_EXPIRED = "decision_expired", FAILED, "another Keap account was chosen, and nobody decided in time"
    # The grant came by an invitation, and waits for an admin or a program to confirm who connected.
    CONFIRMATION_PENDING = "confirmation_pending", WAITS, "waits until who connected is confirmed"
    CONFIRMATION_DECLINED = "confirmation_declined", FAILED, "an admin declined who had connected"
    CONFIRMATION_EXPIRED = "confirmation_expired", FAILED, "nobody confirmed in time who had connected"
    # CONNECT_MODE=invitation, and it was to reconnect an account.
    IDENTITY_PENDING = "identity_pending", WAITS, "waits until Keap says whose account it is"
    DENIED = "denied", FAILED, "access was denied at Keap"
    KEAP_ERROR = "keap_error", FAILED, "Keap sends people back with an error"
    # The callback does not belong to a flow here, or is incomplete.
    STATE_MISSING = "state_missing"
    STATE_UNKNOWN = "state_unknown"
    STATE_EXPIRED = "state_expired", FAILED, "they came back from Keap after more than ten minutes"
    STATE_FOREIGN = "state_foreign"
    CODE_MISSING = "code_missing"
    WRONG_ISSUER = "wrong_issuer", FAILED, "the answer names another sender than Keap"
    LINK_GONE = "link_gone", FAILED, "the link was used or revoked meanwhile"
    DISCONNECTED = "disconnected", FAILED, "the account was disconnected meanwhile"
    # The code exchange failed.
    CODE_REFUSED = "code_refused", FAILED, "Keap refuses the code that it gave"
    CLIENT_REFUSED = "client_refused", FAILED, "Keap refuses this app"
    KEAP_BUSY = "keap_busy", FAILED, "Keap asks this app to slow down"
    KEAP_UNREACHABLE = "keap_unreachable", FAILED, "Keap cannot be reached"
    KEAP_TROUBLE = "keap_trouble", FAILED, "Keap gives no usable answer"
    TENANT_CONFLICT = "tenant_conflict", FAILED, "Keap names two different accounts"
    INTERRUPTED = "interrupted", FAILED, "this app was interrupted"

    @property
    def is_success(self) -> bool:
        """Whether a grant was stored, which proves who the person is."""
        return self.group == STORED


SUCCESSES = [ending for ending in Ending if ending.is_success]
FAILURES = [ending for ending in Ending if ending.group == FAILED]

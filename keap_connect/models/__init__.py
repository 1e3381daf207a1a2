"""The tables. What is derived from other columns, such as an account's state, is written by one function each."""

from keap_connect.models.accounts import (
    LARGEST_ID,
    NAMELESS,
    UNDERIVED,
    Account,
    AccountWord,
    AuthorizationFlow,
    CredentialKind,
    Invitation,
    InvitationState,
    InvitationWord,
    ReconnectLink,
    StateChange,
    StateCount,
)
from keap_connect.models.events import AccountEvent, Counter, Delivery, WebhookEndpoint
from keap_connect.models.jobs import IMPORTS, OF_INVITATIONS, ImportedToken, Job, JobItem, JobKind
from keap_connect.models.operations import (
    CLIENT_REFUSED,
    Alarm,
    CheckedClient,
    Confirmation,
    CounterOf01,
    KeyCheck,
    Period,
    Process,
    RefreshBudget,
    Registration,
    Span,
    Worker,
)
from keap_connect.models.people import (
    NOT_CHOSEN,
    Admin,
    APIKey,
    OneTimeToken,
    RecoveryCode,
    Role,
    SignIn,
    SignInAttempt,
    TokenPurpose,
)

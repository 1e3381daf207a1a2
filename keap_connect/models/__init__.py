"""The tables. They hold facts only; what follows from them, such as an account's state, is derived elsewhere."""

from keap_connect.models.accounts import LARGEST_ID, NAMELESS, Account, AuthorizationFlow, CredentialKind, ReconnectLink
from keap_connect.models.events import AccountEvent
from keap_connect.models.jobs import Job, JobItem
from keap_connect.models.operations import (
    Alarm,
    CheckedClient,
    Confirmation,
    CounterOf01,
    KeyCheck,
    Process,
    RefreshBudget,
    Worker,
)
from keap_connect.models.people import (
    Admin,
    APIKey,
    OneTimeToken,
    RecoveryCode,
    Role,
    SignIn,
    SignInAttempt,
    TokenPurpose,
)

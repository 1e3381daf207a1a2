"""The tables. Facts only: what follows from them (state, what to do next) is derived elsewhere."""

from keap_connect.models.accounts import LARGEST_ID, NAMELESS, Account, AuthorizationFlow, CredentialKind, ReconnectLink
from keap_connect.models.events import AccountEvent
from keap_connect.models.operations import (
    Alarm,
    CheckedClient,
    Confirmation,
    CounterOf01,
    KeyCheck,
    PendingFile,
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

__all__ = [
    "LARGEST_ID",
    "NAMELESS",
    "APIKey",
    "Account",
    "AccountEvent",
    "Admin",
    "Alarm",
    "AuthorizationFlow",
    "CheckedClient",
    "Confirmation",
    "CounterOf01",
    "CredentialKind",
    "KeyCheck",
    "OneTimeToken",
    "PendingFile",
    "ReconnectLink",
    "RecoveryCode",
    "RefreshBudget",
    "Role",
    "SignIn",
    "SignInAttempt",
    "TokenPurpose",
    "Worker",
]

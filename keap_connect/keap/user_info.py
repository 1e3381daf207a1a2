"""Asks Keap's REST API with the fresh access token who authorized, for which tenant, of which company.

Any answer may be missing; fresh tokens are kept all the same and the details are filled in later. An import, which
can be done again, needs tenant and person.
"""

from dataclasses import dataclass, field

import requests
from oauthlib.oauth2 import InsecureTransportError

from keap_connect.errors import CredentialRefused, TemporarilyUnavailable, TenantConflict
from keap_connect.keap.answers import cut, json_object
from keap_connect.keap.token_response import normalize_tenant_id
from keap_connect.keap.transport import Call, KeapSession
from keap_connect.settings import KeapSettings

DEADLINE_SECONDS = 8.0
USER_INFO_PATHS = ("/v2/oauth/connect/userinfo", "/v1/oauth/connect/userinfo")
COMPANY_PATHS = ("/v2/businessProfile", "/v1/account/profile")


@dataclass(frozen=True)
class Identity:
    """What Keap said; None where it did not."""

    tenant_id: str | None = None
    keap_user_id: str | None = None
    person_name: str | None = None
    person_email: str | None = None
    business_name: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether Keap named tenant and person, which together are the key of an account."""
        return self.tenant_id is not None and self.keap_user_id is not None


@dataclass(frozen=True)
class _Answer:
    body: dict[str, object] = field(default_factory=dict)
    tenant_id: str | None = None  # from the header
    was_refused: bool = False


def ask_identity(keap: KeapSettings, access_token: str, granted_tenant_id: str | None) -> Identity:
    """Ask whose access token this is.

    Args:
        granted_tenant_id: the tenant that the token response named; every answer is checked against it.

    Raises TenantConflict: Keap named two different tenants for this one token.

    Source: Keap REST API, UserInfo v2 (`id`, `tenant_id`) and v1 (`global_user_id`); BusinessProfile v2 and
    account profile v1; header `x-keap-tenant-id` on every answer. `sub` is "1" in many tenants and never used.
    """
    user = _first_answer(keap, access_token, USER_INFO_PATHS)
    return _identity(user, _first_answer(keap, access_token, COMPANY_PATHS), granted_tenant_id)


def get_identity(keap: KeapSettings, access_token: str) -> Identity:
    """Ask whose imported token or key this is; tenant and person are never None.

    Raises:
        CredentialRefused: Keap does not accept it.
        TemporarilyUnavailable: Keap did not name tenant and person.
        TenantConflict: Keap named two different tenants for it.

    Source: as for `ask_identity`; a Personal Access Token or Service Account Key travels as Bearer, too.
    """
    user = _first_answer(keap, access_token, USER_INFO_PATHS)
    if user.was_refused:
        raise CredentialRefused(
            "Keap does not accept this token or key: it may be mistyped, expired, deleted, or of Keap's MCP server."
        )
    if user.body:
        identity = _identity(user, _first_answer(keap, access_token, COMPANY_PATHS), None)
        if identity.is_complete:
            return identity
    raise TemporarilyUnavailable("Keap did not say whose token or key this is. Try again in a minute.")


def _identity(user: _Answer, company: _Answer, granted_tenant_id: str | None) -> Identity:
    given = (granted_tenant_id, user.tenant_id, company.tenant_id, normalize_tenant_id(user.body.get("tenant_id")))
    named = sorted({tenant_id for tenant_id in given if tenant_id})
    if len(named) > 1:
        raise TenantConflict(f"Keap named two accounts for one grant: {' and '.join(named)}.")
    names = (user.body.get("given_name"), user.body.get("family_name"))
    return Identity(
        tenant_id=named[0] if named else None,
        keap_user_id=_user_id(user.body.get("id") or user.body.get("global_user_id")),
        person_name=_text(" ".join(name for name in names if isinstance(name, str))),
        person_email=_text(user.body.get("email")),
        business_name=_text(company.body.get("name")),
    )


def _first_answer(keap: KeapSettings, access_token: str, paths: tuple[str, ...]) -> _Answer:
    """Return the first usable answer, or an empty one; it was refused if Keap answered each request with 401."""
    refusals = 0
    for path in paths:
        token = {"access_token": access_token, "token_type": "bearer"}
        with KeapSession(keap, Call(DEADLINE_SECONDS), token) as session:
            try:
                response = session.get(keap.api_url + path)
                refusals += response.status_code == 401
                body = json_object(response.content)
            except (requests.RequestException, InsecureTransportError):
                continue
        if response.status_code == 200 and body is not None:
            return _Answer(body, normalize_tenant_id(response.headers.get("x-keap-tenant-id")))
    return _Answer(was_refused=refusals == len(paths))


def _user_id(value: object) -> str | None:
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    return cut(str(value), 100) or None if is_id else None


def _text(value: object) -> str | None:
    return cut(value, 300) or None if isinstance(value, str) else None

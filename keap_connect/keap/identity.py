"""Who authorized, for which tenant, of which company: asked of Keap's REST API with the fresh access token.

Every answer may be missing; the tokens are kept all the same and the details are filled in later.
"""

import json
from dataclasses import dataclass

import requests
from oauthlib.oauth2 import InsecureTransportError

from keap_connect.errors import TenantConflict
from keap_connect.keap.judgement import cut
from keap_connect.keap.token_response import normalize_tenant_id
from keap_connect.keap.transport import keap_session
from keap_connect.settings import KeapSettings

DEADLINE_SECONDS = 8.0
USER_INFO_PATHS = ("/v2/oauth/connect/userinfo", "/v1/oauth/connect/userinfo")
COMPANY_PATHS = ("/v2/businessProfile", "/v1/account/profile")


@dataclass(frozen=True)
class Identity:
    """What Keap told; None where it did not."""

    tenant_id: str | None = None
    keap_user_id: str | None = None
    person_name: str | None = None
    person_email: str | None = None
    business_name: str | None = None


def ask_identity(keap: KeapSettings, access_token: str, granted_tenant_id: str | None) -> Identity:
    """Ask who an access token speaks for.

    Args:
        granted_tenant_id: the tenant that the token response named; every answer is checked against it.

    Raises:
        TenantConflict: Keap named two different tenants for this one token.

    Source: Keap REST API, UserInfo v2 (`id`, `tenant_id`) and v1 (`global_user_id`); BusinessProfile v2 and
    account profile v1; header `x-keap-tenant-id` on every answer. `sub` is "1" in many tenants and never used.
    """
    user, user_tenant_id = _first_answer(keap, access_token, USER_INFO_PATHS)
    company, company_tenant_id = _first_answer(keap, access_token, COMPANY_PATHS)
    told = (granted_tenant_id, user_tenant_id, company_tenant_id, normalize_tenant_id(user.get("tenant_id")))
    named = sorted({tenant_id for tenant_id in told if tenant_id})
    if len(named) > 1:
        raise TenantConflict(f"Keap named two accounts for one grant: {' and '.join(named)}.")
    names = (user.get("given_name"), user.get("family_name"))
    return Identity(
        tenant_id=named[0] if named else None,
        keap_user_id=_user_id(user.get("id") or user.get("global_user_id")),
        person_name=_text(" ".join(name for name in names if isinstance(name, str))),
        person_email=_text(user.get("email")),
        business_name=_text(company.get("name")),
    )


def _first_answer(
    keap: KeapSettings, access_token: str, paths: tuple[str, ...]
) -> tuple[dict[str, object], str | None]:
    """Return the first usable JSON object and the tenant its header names; ({}, None) when there is none."""
    for path in paths:
        with keap_session(keap, {"access_token": access_token, "token_type": "bearer"}, DEADLINE_SECONDS) as (
            session,
            _call,
        ):
            try:
                response = session.get(keap.api_url + path)
                body = json.loads(response.content)
            except (requests.RequestException, InsecureTransportError, ValueError, RecursionError):
                continue
        if response.status_code == 200 and isinstance(body, dict):
            return body, normalize_tenant_id(response.headers.get("x-keap-tenant-id"))
    return {}, None


def _user_id(value: object) -> str | None:
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    return cut(str(value), 100) or None if is_id else None


def _text(value: object) -> str | None:
    return cut(value, 300) or None if isinstance(value, str) else None

"""The authorization request and response: where the browser is sent, and what it brings back."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from oauthlib.oauth2 import WebApplicationClient
from requests_oauthlib import OAuth2Session

from keap_connect.keap.answers import cut
from keap_connect.settings import KeapSettings


@dataclass(frozen=True)
class AuthorizationRequest:
    """The URL to send the browser to, and the secrets that must come back."""

    url: str = field(repr=False)
    state: str = field(repr=False)
    code_verifier: str | None = field(repr=False)


@dataclass(frozen=True)
class AuthorizationResponse:
    """The callback's query. None where a parameter is absent, empty, repeated or too long to be one of ours.

    An `issuer` that is present but empty, repeated or too long is "", so it is another issuer than Keap.

    Source: RFC 6749 sections 4.1.2 and 4.1.2.1; `iss` is RFC 9207.
    """

    state: str | None = field(repr=False)
    code: str | None = field(repr=False)
    error: str | None
    error_description: str | None
    issuer: str | None

    @classmethod
    def from_query(cls, query: Mapping[str, list[str]]) -> "AuthorizationResponse":
        """Read a parsed query: a list of values for each name."""

        def single(name: str, longest: int) -> str | None:
            values = query.get(name, [])
            return values[0] if len(values) == 1 and 0 < len(values[0]) <= longest else None

        description = single("error_description", 2000)
        error = single("error", 200)
        return cls(
            state=single("state", 200),
            code=single("code", 2000),
            error=cut(error) if error else None,
            error_description=cut(description) if description else None,
            issuer=(single("iss", 500) or "") if "iss" in query else None,
        )


def plain_authorization_url(keap: KeapSettings, redirect_uri: str | None) -> str:
    """Return the authorization URL without `state`, for a person to read and copy; no browser is sent to it.

    Without a redirect URI it is the link of Keap's own guide, which ends in Account Central.

    Source: RFC 6749 section 4.1.1; Keap developer portal, "Getting Started with OAuth2", step Request Permission.
    """
    if redirect_uri is None:
        return f"{keap.authorize_url}?{urlencode({'client_id': keap.client_id})}"
    client = WebApplicationClient(keap.client_id)
    return str(client.prepare_request_uri(keap.authorize_url, redirect_uri=redirect_uri, scope=["full"]))


def new_authorization_request(keap: KeapSettings) -> AuthorizationRequest:
    """Build an authorization request with a fresh `state`, and PKCE when it is turned on.

    Source: RFC 6749 section 4.1.1, RFC 7636 section 4; Keap knows the scope `full` only.
    """
    state = secrets.token_urlsafe(32)
    code_verifier = None
    challenge = {}
    if keap.uses_pkce:
        client = WebApplicationClient(keap.client_id)
        code_verifier = client.create_code_verifier(64)
        code_challenge = client.create_code_challenge(code_verifier, "S256")
        challenge = {"code_challenge": code_challenge, "code_challenge_method": "S256"}
    session = OAuth2Session(keap.client_id, redirect_uri=keap.redirect_uri, scope=["full"])
    url, _ = session.authorization_url(keap.authorize_url, state=state, **challenge)
    return AuthorizationRequest(url, state, code_verifier)

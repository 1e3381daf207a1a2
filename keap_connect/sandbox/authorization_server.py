"""oauthlib's server side, bent to Keap's answers: wording, token form, rotation, no refresh scopes."""

# ruff: noqa: ARG002  (oauthlib gives every validator method more than one of them needs)

from dataclasses import dataclass
from typing import cast

from flask import current_app
from oauthlib.common import Request
from oauthlib.oauth2 import (
    AuthorizationCodeGrant,
    AuthorizationEndpoint,
    BearerToken,
    RefreshTokenGrant,
    RequestValidator,
    TokenEndpoint,
)
from oauthlib.oauth2.rfc6749.errors import InvalidClientError, InvalidGrantError, InvalidRequestError, OAuth2Error
from oauthlib.oauth2.rfc6749.grant_types.authorization_code import code_challenge_method_s256
from oauthlib.oauth2.rfc6749.tokens import OAuth2Token
from werkzeug.datastructures import Authorization

from keap_connect.sandbox.apps import App, RedirectURIMode
from keap_connect.sandbox.grants import CODE_LENGTH, Kind, Token, random_secret, scope_of
from keap_connect.sandbox.world import World


@dataclass(frozen=True)
class Consent:
    """Who pressed Allow, for which tenant. Travels as oauthlib's `request.user`."""

    person_id: int
    tenant_id: str


def dead_code() -> OAuth2Error:
    return InvalidGrantError("Authorization code is invalid")


def dead_refresh_token(wording: str) -> OAuth2Error:
    """Today's answer says `invalid_request` and writes the words with capitals."""
    if wording == "invalid_grant":
        return InvalidGrantError("Invalid refresh token")
    return InvalidRequestError("Invalid Refresh Token")


class KeapRequestValidator(RequestValidator):
    """Keap's rules, in the places where oauthlib asks for them.

    In a token request `request.user` is the code or refresh token that was presented.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    # The authorization request

    def validate_client_id(self, client_id: str, request: Request, *args: object, **kwargs: object) -> bool:
        request.client = self._world.apps.find(client_id)
        return request.client is not None and not self._world.switches.positions.app_disabled

    def validate_redirect_uri(
        self, client_id: str, redirect_uri: str, request: Request, *args: object, **kwargs: object
    ) -> bool:
        app = cast(App, request.client)
        return app.may_use(redirect_uri, RedirectURIMode(self._world.switches.positions.redirect_uri_mode))

    def get_default_redirect_uri(  # type: ignore[override]  # oauthlib wants None where there is no default
        self, client_id: str, request: Request, *args: object, **kwargs: object
    ) -> None:
        return None

    def validate_response_type(
        self, client_id: str, response_type: str, client: object, request: Request, *args: object, **kwargs: object
    ) -> bool:
        return response_type == "code"

    def validate_scopes(
        self, client_id: str, scopes: list[str], client: object, request: Request, *args: object, **kwargs: object
    ) -> bool:
        return scopes == ["full"]

    def get_default_scopes(self, client_id: str, request: Request, *args: object, **kwargs: object) -> list[str]:
        return ["full"]

    def is_pkce_required(self, client_id: str, request: Request) -> bool:
        return False

    def save_authorization_code(  # type: ignore[override]
        self, client_id: str, code: dict[str, str], request: Request, *args: object, **kwargs: object
    ) -> None:
        consent = cast(Consent, request.user)
        grants = self._world.grants
        grant_id = grants.open(client_id, consent.person_id, consent.tenant_id)
        grants.issue_code(grant_id, code["code"], str(request.redirect_uri), request.code_challenge)

    # The token request

    def client_authentication_required(self, request: Request, *args: object, **kwargs: object) -> bool:
        return True

    def authenticate_client(self, request: Request, *args: object, **kwargs: object) -> bool:
        """Basic for refreshing, the body for exchanging a code; each accepts the other, within the switch."""
        switches = self._world.switches.positions
        in_body = (request.client_id or "", request.client_secret or "")
        basic = Authorization.from_header(request.headers.get("Authorization"))
        candidates = []
        if basic is not None and basic.type == "basic":
            candidates.append((str(basic.username), str(basic.password)))
        if request.grant_type == "authorization_code" or switches.body_credentials_on_refresh:
            candidates.append(in_body)
        for client_id, client_secret in candidates:
            app = self._world.apps.find(client_id)
            if app is not None and app.has_secret(client_secret) and not switches.app_disabled:
                request.client, request.client_id = app, app.client_id
                return True
        raise InvalidClientError("Invalid client identifier")

    def validate_grant_type(
        self, client_id: str, grant_type: str, client: object, request: Request, *args: object, **kwargs: object
    ) -> bool:
        return True

    def validate_code(
        self, client_id: str, code: str, client: object, request: Request, *args: object, **kwargs: object
    ) -> bool:
        request.user = self._presented(code, Kind.CODE, client_id)
        if request.user is None:
            raise dead_code()
        if request.redirect_uri is None:
            raise InvalidRequestError("Required param : redirect_uri")
        return True

    def get_code_challenge(self, code: str, request: Request) -> str | None:  # type: ignore[override]
        token = cast(Token, request.user)
        return token.code_challenge

    def get_code_challenge_method(self, code: str, request: Request) -> str:
        return "S256"

    def confirm_redirect_uri(
        self,
        client_id: str,
        code: str,
        redirect_uri: str,
        client: object,
        request: Request,
        *args: object,
        **kw: object,
    ) -> bool:
        token = cast(Token, request.user)
        if redirect_uri != token.redirect_uri:
            raise InvalidRequestError("Invalid redirect_uri")
        return True

    def validate_refresh_token(
        self, refresh_token: str, client: object, request: Request, *args: object, **kwargs: object
    ) -> bool:
        request.user = self._presented(refresh_token, Kind.REFRESH_TOKEN, str(request.client_id))
        if request.user is None:
            raise dead_refresh_token(self._world.switches.positions.refresh_wording)
        return True

    def _presented(self, secret: str, kind: Kind, client_id: str) -> Token | None:
        token = self._world.grants.find(secret, kind)
        if token is None or token.client_id != client_id:
            return None
        state = token.state(self._world.clock.now())
        if state == "used" and token.expires_at > self._world.clock.now() and self._world.grants.works_again(token):
            return token
        if state == "used" and self._world.switches.positions.family_revocation:
            self._world.grants.revoke(token.grant_id)
        return token if state == "live" else None

    def get_original_scopes(self, refresh_token: str, request: Request, *args: object, **kwargs: object) -> list[str]:
        return ["full"]

    def is_within_original_scope(
        self, request_scopes: list[str], refresh_token: str, request: Request, *args: object, **kwargs: object
    ) -> bool:
        return True

    def save_token(self, token: object, request: Request, *args: object, **kwargs: object) -> None:
        """Nothing is left to save: `KeapToken` spends the old token and issues the pair in one step."""

    def invalidate_authorization_code(
        self, client_id: str, code: str, request: Request, *args: object, **kwargs: object
    ) -> None:
        """The code is spent already, see `save_token`."""


class KeapAuthorizationCodeGrant(AuthorizationCodeGrant):
    """Short codes, the tenant in the redirect, and S256 as the only challenge method."""

    _code_challenge_methods = {"S256": code_challenge_method_s256}  # noqa: RUF012  (oauthlib's own attribute)

    def create_authorization_code(self, request: Request) -> dict[str, str]:
        consent = cast(Consent, request.user)
        redirect = {"code": random_secret(CODE_LENGTH), "scope": scope_of(consent.tenant_id)}
        if request.state is not None:
            redirect["state"] = request.state
        return redirect


class KeapToken(BearerToken):
    """Keap's token response: lower-case "bearer", the tenant in the scope."""

    def __init__(self, validator: RequestValidator, world: World) -> None:
        super().__init__(validator)
        self._world = world

    def create_token(self, request: Request, refresh_token: bool = False, **kwargs: object) -> OAuth2Token:
        spent = cast(Token, request.user)
        pair = self._world.grants.issue_pair(spent.grant_id, spent.tenant_id, spent)
        return OAuth2Token(pair.token_response())


class KeapAuthorizationServer(AuthorizationEndpoint, TokenEndpoint):
    """Both endpoints. Call them inside `store.transaction()`: oauthlib checks and rotates in two steps."""

    def __init__(self, world: World) -> None:
        validator = KeapRequestValidator(world)
        code_grant = KeapAuthorizationCodeGrant(validator)
        token = KeapToken(validator, world)
        AuthorizationEndpoint.__init__(self, "code", token, {"code": code_grant})  # type: ignore[arg-type]
        TokenEndpoint.__init__(
            self,
            "authorization_code",
            token,  # type: ignore[arg-type]  # the stubs say "str"; oauthlib wants the object
            {"authorization_code": code_grant, "refresh_token": RefreshTokenGrant(validator)},
        )


def current_authorization_server() -> KeapAuthorizationServer:
    return cast(KeapAuthorizationServer, current_app.extensions["sandbox_authorization_server"])

"""Requests to Keap's token endpoint; each that asks for a token ends in a `Classification`, never in an exception.

oauthlib's own parser would take Keap's "Invalid Refresh Token" for a bad client and an HTML page for a missing
token, so the compliance hooks pass the raw answer to `classify` before oauthlib sees it.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import quote_plus

import requests
from oauthlib.oauth2 import InsecureTransportError
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from keap_connect.clock import utc_now
from keap_connect.keap.answers import Answer, Classification, GrantType, classify, cut, no_answer, not_sent
from keap_connect.keap.transport import Call, Cancelled, CertificateRefused, KeapSession, NotSent, NoUsableAnswer
from keap_connect.settings import KeapSettings

log = logging.getLogger(__name__)
LOOK_SECONDS = 10.0


def exchange_code(keap: KeapSettings, code: str, code_verifier: str | None = None) -> Classification:
    """Trade an authorization code for a token; a code is sent at most once.

    Client id and secret travel in the body, as Keap documents for this grant.

    Source: RFC 6749 section 4.1.3; Keap developer portal, "Getting Started with OAuth2".
    """

    def send(session: OAuth2Session) -> None:
        session.fetch_token(
            keap.token_url,
            code=code,
            include_client_id=True,
            client_secret=keap.client_secret,
            code_verifier=code_verifier,
        )

    return _ask(keap, GrantType.AUTHORIZATION_CODE, (code, code_verifier), Call(), send)


def refresh(
    keap: KeapSettings, refresh_token: str, must_end_by: float = math.inf, may_send: Callable[[], bool] | None = None
) -> Classification:
    """Trade a refresh token for a new pair; the old one is dead afterwards.

    Store the result before doing anything else. Nothing is sent unless, once the connection is open, `may_send` says
    so and the call's deadline is before `must_end_by` (seconds of `clock.seconds_since_boot`). Client id and secret
    travel by Basic authentication, form-encoded first (RFC 6749 section 2.3.1), as Keap documents for this grant.

    Source: RFC 6749 section 6; Keap developer portal, "Getting Started with OAuth2".
    """
    basic = HTTPBasicAuth(quote_plus(keap.client_id), quote_plus(keap.client_secret))

    def send(session: OAuth2Session) -> None:
        session.refresh_token(keap.token_url, refresh_token=refresh_token, auth=basic)

    call = Call(must_end_by=must_end_by, may_send=may_send)
    return _ask(keap, GrantType.REFRESH_TOKEN, (refresh_token,), call, send)


class _Classified(Exception):
    """Carries a verdict out of requests-oauthlib, past its parser."""

    def __init__(self, classified: Classification) -> None:
        super().__init__(classified.reason)
        self.classified = classified


def _ask(
    keap: KeapSettings,
    grant_type: GrantType,
    presented: tuple[str | None, ...],
    call: Call,
    send: Callable[[OAuth2Session], None],
) -> Classification:
    sent_at = utc_now()
    secrets = [secret.encode() for secret in (*presented, keap.client_secret) if secret]

    def hear(response: requests.Response) -> requests.Response:
        body = response.content
        if not response.ok:  # an error text may echo what we sent, and it ends in logs and on pages
            for secret in secrets:
                body = body.replace(secret, b"[secret]")
        answer = Answer(response.status_code, body, response.headers.get("Retry-After"))
        raise _Classified(classify(grant_type, answer, sent_at))

    with KeapSession(keap, call) as session:
        session.register_compliance_hook("access_token_response", hear)
        session.register_compliance_hook("refresh_token_response", hear)
        try:
            send(session)
        except _Classified as heard:
            return heard.classified
        except InsecureTransportError:
            return no_answer("The token URL is plain http, so nothing was sent.", was_sent=False)
        except Cancelled as problem:
            return not_sent(f"Nothing was sent to Keap: {problem}.")
        except CertificateRefused as problem:
            log.error("Keap's server did not prove who it is: %s", cut(str(problem)))
            return no_answer("Keap's server did not prove who it is, so nothing was sent.", was_sent=False)
        except NotSent as problem:
            return no_answer(f"Keap could not be reached, so nothing was sent: {problem}.", was_sent=False)
        except NoUsableAnswer as problem:
            return no_answer(f"No usable answer came from Keap: {problem}.", was_sent=True)
    raise AssertionError("requests-oauthlib returned without calling its compliance hook")


@dataclass(frozen=True)
class Connectivity:
    status: int | None = None
    date: datetime | None = None
    problem: str | None = None  # why no usable answer came


def check_token_endpoint(keap: KeapSettings) -> Connectivity:
    """Send a GET without any credential, which every token endpoint refuses. Takes 10 seconds at most."""
    with KeapSession(keap, Call(LOOK_SECONDS)) as session:
        try:
            answer = session.get(keap.token_url)
        except CertificateRefused as problem:
            return Connectivity(problem=f"Its certificate was not accepted: {problem}.")
        except NotSent as problem:
            return Connectivity(problem=f"It cannot be reached: {problem}.")
        except NoUsableAnswer as problem:
            return Connectivity(problem=f"No usable answer came: {problem}.")
    if answer.is_redirect:
        return Connectivity(problem="It answers with a redirect, which is never followed.")
    return Connectivity(answer.status_code, _date(answer.headers.get("Date")))


def _date(text: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC) if text else None
    except (ValueError, OverflowError):  # not a date, or one beyond the year 9999 in UTC
        return None

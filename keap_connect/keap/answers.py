"""The one classification of Keap's answers to token requests: what an answer means for the grant.

Keap words a dead refresh token in two ways, uses 401 for its own troubles, and its gateway answers in three
shapes and in HTML. So the status, the error and the description decide together, never `invalid_grant` alone.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

from keap_connect.clock import utc_now
from keap_connect.keap.token_response import TokenResponse

MOST_RETRY_AFTER_SECONDS = 3600
# RFC 6749 section 5.2 says of a dead grant that it may have been "issued to another client": that blames the grant.
NAMES_THE_CLIENT = re.compile(r"(?<!another )client|developer inactive", re.IGNORECASE)
DEAD_REFRESH_TOKEN = re.compile(
    r"(?=.*refresh[ _-]?token)(?=.*(invalid|expired|not approved|revoked|unknown|not found|used))",
    re.IGNORECASE | re.DOTALL,
)


class GrantType(StrEnum):
    """RFC 6749 sections 4.1.3 and 6."""

    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105


class Verdict(StrEnum):
    GRANTED = "granted"
    REFUSED_FOR_GOOD = "refused_for_good"
    CLIENT_MISCONFIGURED = "client_misconfigured"
    TRY_LATER = "try_later"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = field(repr=False)
    retry_after: str | None = None


@dataclass(frozen=True)
class Classification:
    verdict: Verdict
    reason: str  # a sentence for people, with Keap's own words cut short in it
    may_have_rotated: bool = False  # Keap may have spent what we sent, although we hold nothing new
    was_sent: bool = True
    was_cancelled: bool = False  # we decided to send nothing, which says nothing about Keap or the account
    is_throttled: bool = False
    retry_after_seconds: int | None = None
    token_response: TokenResponse | None = None


@dataclass(frozen=True)
class _OAuthError:
    """An error in any of Keap's three shapes."""

    error: str
    description: str

    def __str__(self) -> str:
        return f"{self.error}: {self.description}" if self.description else self.error


def classify(grant_type: GrantType, answer: Answer, sent_at: datetime) -> Classification:
    """Classify an answer of the token endpoint.

    Source: RFC 6749 sections 5.1 and 5.2; the bodies that were seen at Keap are in tests/keap/test_answers.py.
    """
    body = json_object(answer.body)
    if 200 <= answer.status < 300:
        granted = TokenResponse.from_body(body, sent_at) if body is not None else None
        if granted:
            return Classification(Verdict.GRANTED, "Keap granted a token.", token_response=granted)
        return Classification(
            Verdict.TRY_LATER, f"Keap answered {answer.status} without a usable token.", may_have_rotated=True
        )
    if 300 <= answer.status < 400:
        return no_answer(f"Keap answered with a redirect ({answer.status}), which is never followed.", was_sent=True)
    retry_after = retry_after_seconds(answer.retry_after)
    if answer.status == 429:
        reason = "Keap asked us to slow down (429)."
        return Classification(Verdict.TRY_LATER, reason, is_throttled=True, retry_after_seconds=retry_after)
    error = _oauth_error(body) if body is not None else None
    reason = f"Keap answered {answer.status} ({error or _kind_of(answer.body)})."
    if answer.status == 401 or b"developer inactive" in answer.body.lower():
        return Classification(Verdict.CLIENT_MISCONFIGURED, reason, may_have_rotated=error is None)
    if error is None or answer.status >= 500 or answer.status == 408:
        return Classification(Verdict.TRY_LATER, reason, may_have_rotated=True, retry_after_seconds=retry_after)
    if NAMES_THE_CLIENT.search(str(error)):
        return Classification(Verdict.CLIENT_MISCONFIGURED, reason)
    is_dead = error.error.lower() == "invalid_grant" or DEAD_REFRESH_TOKEN.search(error.description)
    if answer.status == 400 and (is_dead or grant_type is GrantType.AUTHORIZATION_CODE):
        return Classification(Verdict.REFUSED_FOR_GOOD, reason)
    return Classification(Verdict.TRY_LATER, reason, retry_after_seconds=retry_after)


def no_answer(reason: str, was_sent: bool) -> Classification:
    """Classify a call that ended without an answer; once it was written, Keap may have rotated."""
    return Classification(Verdict.TRY_LATER, reason, may_have_rotated=was_sent, was_sent=was_sent)


def not_sent(reason: str) -> Classification:
    """Classify a call that we decided not to make."""
    return Classification(Verdict.TRY_LATER, reason, was_sent=False, was_cancelled=True)


def retry_after_seconds(value: str | None, most: int = MOST_RETRY_AFTER_SECONDS) -> int | None:
    """Read a Retry-After header, seconds or a date; None when absent or not valid.

    Source: RFC 9110 section 10.2.3.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:9]), most)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return int(min(max((when - utc_now()).total_seconds(), 0), most))


def cut(text: str, most: int = 200) -> str:
    """Make text from outside safe for a log line or a page: one line, printable, short."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    flat = " ".join(printable.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def json_object(body: bytes) -> dict[str, object] | None:
    """Parse the JSON object that an answer begins with, whatever follows it; return None for anything else."""
    try:
        parsed, _ = json.JSONDecoder().raw_decode(body.decode(json.detect_encoding(body), "surrogatepass").lstrip())
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _oauth_error(body: dict[str, object]) -> _OAuthError | None:
    """Read Keap's `error`, Apigee's `ErrorCode`/`Error`, or the gateway's `fault` envelope."""
    error, description = body.get("error"), body.get("error_description")
    if not error:
        error, description = body.get("ErrorCode"), body.get("Error")
    fault = body.get("fault")
    if not error and isinstance(fault, dict):
        detail = fault.get("detail")
        error = detail.get("errorcode") if isinstance(detail, dict) else "fault"
        description = fault.get("faultstring")
    if not isinstance(error, str) or not error:
        return None
    return _OAuthError(cut(error), cut(description) if isinstance(description, str) else "")


def _kind_of(body: bytes) -> str:
    if not body.strip():
        return "an empty answer"
    return "an HTML page" if body.lstrip()[:1] == b"<" else "an answer that is not an OAuth error"

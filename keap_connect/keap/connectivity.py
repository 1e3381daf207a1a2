"""A request to the token endpoint without credentials: does it answer, is its certificate valid, what time is it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from keap_connect.keap.transport import Call, CertificateRefused, KeapSession, NotSent, NoUsableAnswer
from keap_connect.settings import KeapSettings

DEADLINE_SECONDS = 10.0


@dataclass(frozen=True)
class Connectivity:
    status: int | None = None
    date: datetime | None = None
    problem: str | None = None  # why no usable answer came


def check_token_endpoint(keap: KeapSettings) -> Connectivity:
    """Send a GET without any credential, which every token endpoint refuses. Takes 10 seconds at most."""
    with KeapSession(keap, Call(DEADLINE_SECONDS)) as session:
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

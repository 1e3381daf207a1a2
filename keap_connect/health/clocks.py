"""Whether the clocks agree: token expiry is reckoned by ours, leases by the database's."""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import select

from keap_connect.clock import utc_now
from keap_connect.database import database_clock, db, read_session
from keap_connect.health.finding import Finding, well, wrong

MOST_SECONDS_APART = 30
ADVICE = "Let this machine and the database's keep time by NTP (`timedatectl set-ntp true`)."


def look_at_database_clock() -> Iterator[Finding]:
    """Compare PostgreSQL's clock with ours; SQLite has none of its own."""
    if db.engine.dialect.name != "postgresql":
        return
    with read_session() as session:
        theirs = session.execute(select(database_clock())).scalar_one()
    yield compare("database clock", utc_now().timestamp() - theirs)


def compare_with_keap(their_time: datetime) -> Finding:
    """Compare the time that an answer of Keap carries with ours."""
    return compare("clock", (utc_now() - their_time).total_seconds())


def compare(subject: str, seconds_ahead: float) -> Finding:
    """Say how far ours is ahead of the other."""
    apart = abs(seconds_ahead)
    if apart <= MOST_SECONDS_APART:
        return well(subject, "It agrees with ours within a few seconds.")
    which = "ahead" if seconds_ahead > 0 else "behind"
    return wrong(subject, f"Our clock is {apart:.0f} seconds {which}, so tokens are taken for older or newer.", ADVICE)

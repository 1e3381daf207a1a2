"""Whether the clocks agree: token expiry follows this machine's clock, leases follow the database's."""

from collections.abc import Iterator

from sqlalchemy import select

from keap_connect.clock import utc_now
from keap_connect.database import database_clock, db, read_session
from keap_connect.health.finding import Finding, well, wrong

MOST_SECONDS_APART = 30
ADVICE = "Set the clocks of this machine and the database's by NTP (`timedatectl set-ntp true`)."


def check_database_clock() -> Iterator[Finding]:
    """Compare PostgreSQL's clock with ours; SQLite has none of its own."""
    if db.engine.dialect.name != "postgresql":
        return
    with read_session() as session:
        theirs = session.execute(select(database_clock())).scalar_one()
    yield compare("database clock", utc_now().timestamp() - theirs)


def compare(subject: str, seconds_ahead: float) -> Finding:
    if abs(seconds_ahead) <= MOST_SECONDS_APART:
        return well(subject, "It agrees with ours within a few seconds.")
    which = f"{abs(seconds_ahead):.0f} seconds {'ahead' if seconds_ahead > 0 else 'behind'}"
    return wrong(subject, f"Our clock is {which}, so tokens seem older or newer than they are.", ADVICE)

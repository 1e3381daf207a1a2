"""How dates look on pages: relative to now, with the exact UTC time beside it."""

from datetime import datetime

from flask import Flask

from keap_connect.clock import utc_now

UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def add_filters(app: Flask) -> None:
    """Make the filters known to the templates."""
    app.jinja_env.filters["relative_time"] = relative_time
    app.jinja_env.filters["exact_time"] = exact_time
    app.jinja_env.filters["iso"] = iso


def relative_time(moment: datetime) -> str:
    """Say how far away a moment is: "in 3 h", "2 d ago", "now".

    A unit counts when it is over. One ahead may lack a 24th: a fresh token of 24 h is not read within the same second.
    """
    seconds = (moment - utc_now()).total_seconds()
    for unit, size in UNITS:
        if abs(seconds) >= size:
            amount = f"{int((max(-seconds, seconds + size / 24)) // size)} {unit}"
            return f"in {amount}" if seconds > 0 else f"{amount} ago"
    return "now" if abs(seconds) < 10 else "in a moment" if seconds > 0 else "a moment ago"


def iso(moment: datetime) -> str:
    """Give a moment to machines, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def exact_time(moment: datetime) -> str:
    """Give a moment exactly, in UTC."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")

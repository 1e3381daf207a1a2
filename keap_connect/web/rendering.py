"""How pages show times: relative to now, the exact UTC time beside it; how scripts, styles and CSV files are sent."""

import gzip
from collections.abc import Iterator
from datetime import datetime

from flask import Flask, Response, request, stream_with_context

from keap_connect.clock import utc_now

UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def add_filters(app: Flask) -> None:
    app.jinja_env.filters.update(relative_time=relative_time, exact_time=exact_time, iso=iso)


def relative_time(moment: datetime) -> str:
    """Return how far away a moment is: "in 3 h", "2 d ago", "now"."""
    seconds = (moment - utc_now()).total_seconds()
    for unit, size in UNITS:
        # Only full units count; one ahead may lack a 24th, since a new token of 24 h is shown a little later.
        if abs(seconds) >= size:
            amount = f"{int((max(-seconds, seconds + size / 24)) // size)} {unit}"
            return f"in {amount}" if seconds > 0 else f"{amount} ago"
    return "now" if abs(seconds) < 10 else "in a moment" if seconds > 0 else "just now"


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def exact_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def compress_static_file(response: Response) -> Response:
    """Compress scripts and styles only: the length of a compressed page could give away what it holds (BREACH)."""
    is_text = (response.mimetype or "").startswith("text/")
    if request.endpoint == "static" and response.status_code == 200 and is_text:
        response.vary.add("Accept-Encoding")
        if request.accept_encodings["gzip"]:
            response.direct_passthrough = False
            response.set_data(gzip.compress(response.get_data(), mtime=0))
            response.content_encoding = "gzip"
            response.set_etag(response.get_etag()[0] or "", weak=True)  # one file, two sequences of bytes
    return response


def as_download(pieces: Iterator[str], name: str = "") -> Response:
    name = name or f"keap-accounts-{utc_now():%Y-%m-%d}"
    download = Response(stream_with_context(pieces), mimetype="text/csv")
    download.headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    return download

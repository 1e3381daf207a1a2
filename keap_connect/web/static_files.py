"""How scripts and styles are sent."""

import gzip

from flask import Flask, Response, request


def compress_static_files(app: Flask) -> None:
    """Compress scripts and styles only: the length of a compressed page could give away what it holds (BREACH)."""

    @app.after_request
    def compress(response: Response) -> Response:
        if (
            request.endpoint == "static"
            and response.status_code == 200
            and (response.mimetype or "").startswith("text/")
        ):
            response.vary.add("Accept-Encoding")
            if request.accept_encodings["gzip"]:
                response.direct_passthrough = False
                response.set_data(gzip.compress(response.get_data(), mtime=0))
                response.content_encoding = "gzip"
                response.set_etag(response.get_etag()[0] or "", weak=True)  # one file, two sequences of bytes
        return response

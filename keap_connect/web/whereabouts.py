"""Tells the history from which network address each request came."""

from flask import Flask, request

from keap_connect.accounts.history import acting_from


def note_whereabouts(app: Flask) -> None:
    """Set the address at the begin of each request, and take it back at its end: threads are used again."""

    @app.before_request
    def note() -> None:
        acting_from.set(request.remote_addr)

    @app.teardown_request
    def forget(_error: BaseException | None) -> None:
        acting_from.set(None)

"""Faults that answer with an error status: Keap's own words, its gateways' and its front ends'."""

from collections.abc import Callable
from typing import NamedTuple

from flask import Response, request

from keap_connect.sandbox.answers import APP_DISABLED, error_body, fault_body, html_page
from keap_connect.sandbox.fault_library.registry import API, EVERYWHERE, FAULTS, TOKEN, Call, FaultKind, fault

JSON, HTML, PLAIN = "application/json", "text/html; charset=utf-8", "text/plain; charset=utf-8"


class Canned(NamedTuple):
    sentence: str
    numbers: str
    endpoints: tuple[str, ...]
    status: int
    content_type: str
    body: str


CANNED = {
    "html_503": Canned(
        "Keap is down for maintenance: 503 with an HTML page.",
        "F01 F21", EVERYWHERE, 503, HTML, html_page("503 Service Unavailable", "Down for maintenance."),
    ),
    "json_500": Canned(
        "Keap breaks: 500 with a JSON error.",
        "F01", EVERYWHERE, 500, JSON, error_body("server_error", "An error occurred"),
    ),
    "gateway_504": Canned(
        "The gateway gives up before Keap has acted: 504.",
        "F01", EVERYWHERE, 504, HTML, html_page("504 Gateway Timeout", "The upstream server did not answer."),
    ),
    "html_400": Canned(
        "Google's front end refuses: 400 with an HTML page.",
        "F02", EVERYWHERE, 400, HTML,
        html_page("400. That's an error.", "Your client has issued a malformed or illegal request."),
    ),
    "html_403": Canned(
        "A front end refuses: 403 with an HTML page.",
        "F02", EVERYWHERE, 403, HTML, html_page("403 Forbidden", "You do not have access to this page."),
    ),
    "bot_filter_403": Canned(
        "A bot filter takes the client for a robot: 403 with an HTML challenge page.",
        "F02", EVERYWHERE, 403, HTML, html_page("Attention Required!", "Please complete the security check."),
    ),
    "developer_inactive_403": Canned(
        "The old gateway's answer for a disabled key: 403 \"Developer Inactive\".",
        "F02 F08", TOKEN + API, 403, HTML, "<h1>403 Developer Inactive</h1>",
    ),
    "unauthorized_401_plain": Canned(
        "401 with the plain word Unauthorized.",
        "F08", TOKEN + API, 401, PLAIN, "Unauthorized",
    ),
    "unable_to_authenticate_401": Canned(
        "401 \"Unable to authenticate username and password\", seen on code exchanges.",
        "F08", TOKEN, 401, JSON, error_body("invalid_grant", "Unable to authenticate username and password"),
    ),
    "invalid_client_401": Canned(
        "Keap does not know our client: 401 invalid_client.",
        "F08", TOKEN, 401, JSON, error_body("invalid_client", "Invalid client identifier"),
    ),
    "client_id_not_approved_fault": Canned(
        "Keap has disabled the developer app: 401 with the gateway's fault.",
        "F08", TOKEN + API, 401, JSON, fault_body(*APP_DISABLED),
    ),
    "rate_limited_quota_429": Canned(
        "429 \"Quota Exceeded\"; its code is a string.",
        "F05", TOKEN + API, 429, JSON,
        '{"code":"429","message":"Quota Exceeded","status":"Request Throttled","details":null}',
    ),
    "rate_limited_spike_429": Canned(
        "429 with the gateway's spike arrest fault.",
        "F05", TOKEN + API, 429, JSON,
        fault_body(
            "Spike arrest violation. Allowed rate : MessageRate{messagesPerPeriod=25,"
            " periodInMicroseconds=6000000, maxBurstMessageCount=1.0}",
            "policies.ratelimit.SpikeArrestViolation",
        ),
    ),
    "rate_limited_fault_429": Canned(
        "429 with the gateway's quota fault.",
        "F05", TOKEN + API, 429, JSON,
        fault_body(
            "Rate limit quota violation. Quota limit exceeded. Identifier : sandbox",
            "policies.ratelimit.QuotaViolation",
        ),
    ),
}  # fmt: skip


def canned(one: Canned) -> Callable[..., Response]:
    def play(call: Call, *, retry_after: object = None) -> Response:  # noqa: ARG001  (it does not act)
        return with_retry_after(Response(one.body, one.status, content_type=one.content_type), retry_after)

    return play


def with_retry_after(answer: Response, retry_after: object) -> Response:
    """Add `Retry-After`: seconds or an HTTP date."""
    if retry_after is not None:
        answer.headers["Retry-After"] = str(retry_after)
    return answer


for _name, _one in CANNED.items():
    FAULTS[_name] = FaultKind(_name, _one.sentence, _one.numbers, _one.endpoints, canned(_one))


@fault("Any status and body you like, without acting.", "F01-F05")
def status(
    call: Call,  # noqa: ARG001  (it does not act)
    *,
    status: int = 503,
    body: str = "",
    content_type: str = JSON,
    headers: dict[str, str] = {},  # noqa: B006  (shown as the default, never changed)
    retry_after: object = None,
) -> Response:
    return with_retry_after(Response(body, status, headers, content_type=content_type), retry_after)


@fault("Keap rotates, then the gateway gives up: 504 and the new tokens are lost.", "F01 F18", TOKEN + API)
def gateway_504_after_rotation(call: Call, *, retry_after: object = None) -> Response:
    call.act()
    page = html_page("504 Gateway Timeout", "The upstream server did not answer in time.")
    return with_retry_after(Response(page, 504, content_type=HTML), retry_after)


@fault("Keap refuses a good token, as if it were dead; nothing is rotated.", "F06 F07", TOKEN + API)
def refused_although_valid(call: Call) -> Response:
    return call.refuse()


@fault("A redirect instead of an answer; without a location back to the same address, again and again.", "F15")
def redirect(call: Call, *, status: int = 307, location: str = "") -> Response:  # noqa: ARG001  (it does not act)
    return Response("", status, {"Location": location or request.url})

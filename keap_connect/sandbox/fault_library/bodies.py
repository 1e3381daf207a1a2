"""Faults that answer 200 with a wrong body or wrong headers."""

import json

from flask import Response

from keap_connect.sandbox.answers import html_page
from keap_connect.sandbox.fault_library.registry import API, TOKEN, Call, fault, json_answer, json_object
from keap_connect.sandbox.grants import IssuedPair, random_secret, scope_of
from keap_connect.sandbox.raw_answers import RawAnswer, head_bytes

ODD_LETTERS = "é漢🔑"
LONG_TOKEN_CHARACTERS = 8192


def acted(call: Call, rotate: bool) -> Response:
    """What Keap would say; without acting, an answer of the same form whose tokens nobody knows."""
    if rotate:
        return call.act()
    return json_answer(IssuedPair(random_secret(28), random_secret(32), 86399, scope_of("ab123")).token_response())


def changed(answer: Response, **changes: object) -> Response:
    """The same answer with other fields, if it is a success."""
    body = json_object(answer)
    if answer.status_code == 200 and body is not None:
        answer.set_data(json.dumps(body | changes))
    return answer


def lacking(answer: Response, name: str) -> Response:
    """The same answer without one field, if it is a success."""
    body = json_object(answer)
    if answer.status_code == 200 and body is not None:
        body.pop(name, None)
        answer.set_data(json.dumps(body))
    return answer


@fault("200 with an HTML page where JSON belongs.", "F03", TOKEN + API)
def ok_html(call: Call, *, rotate: bool = True) -> Response:
    acted(call, rotate)
    return Response(html_page("Welcome", "Please sign in."), content_type="text/html; charset=utf-8")


@fault("200 with nothing in it.", "F03", TOKEN + API)
def ok_empty(call: Call, *, rotate: bool = True) -> Response:
    acted(call, rotate)
    return Response("", content_type="application/json")


@fault("200 whose body ends halfway: the length promises more.", "F03", TOKEN + API)
def ok_truncated(call: Call, *, rotate: bool = True) -> Response:
    answer = acted(call, rotate)
    body = answer.get_data()
    return RawAnswer([head_bytes(answer, len(body)), body[: len(body) // 2]])


@fault("200 with a JSON list around the answer.", "F03", TOKEN + API)
def ok_list(call: Call, *, rotate: bool = True) -> Response:
    return json_answer([json_object(acted(call, rotate))])


@fault("200, but the body is an error.", "F04", TOKEN)
def ok_error_field(call: Call, *, rotate: bool = True) -> Response:
    acted(call, rotate)
    return json_answer({"error": "server_error", "error_description": "An error occurred"})


@fault("200 with null for both tokens.", "F04", TOKEN)
def ok_null_tokens(call: Call, *, rotate: bool = True) -> Response:
    return changed(acted(call, rotate), access_token=None, refresh_token=None)


@fault("200 whose header names a character set that the body does not have.", "F03", TOKEN + API)
def ok_wrong_charset(call: Call, *, rotate: bool = True) -> Response:
    answer = acted(call, rotate)
    answer.headers["Content-Type"] = "application/json; charset=utf-16"
    return answer


@fault("The answer has no access_token.", "F03", TOKEN)
def missing_access_token(call: Call, *, rotate: bool = True) -> Response:
    return lacking(acted(call, rotate), "access_token")


@fault("The answer has no refresh_token.", "F13", TOKEN)
def missing_refresh_token(call: Call, *, rotate: bool = True) -> Response:
    return lacking(acted(call, rotate), "refresh_token")


@fault("The answer has no scope, so it does not name the tenant.", "F11", TOKEN)
def missing_scope(call: Call, *, rotate: bool = True) -> Response:
    return lacking(acted(call, rotate), "scope")


@fault("The scope in the answer names another tenant.", "F11", TOKEN)
def other_tenant_in_scope(call: Call, *, tenant_id: str = "zz999", rotate: bool = True) -> Response:
    return changed(acted(call, rotate), scope=scope_of(tenant_id))


@fault('expires_in is missing ("missing"), or any value you like.', "F12", TOKEN)
def odd_expires_in(call: Call, *, value: object = "missing", rotate: bool = True) -> Response:
    answer = acted(call, rotate)
    return lacking(answer, "expires_in") if value == "missing" else changed(answer, expires_in=value)


@fault("Both tokens are 8,192 characters long; they work.", "F14", TOKEN)
def long_tokens(call: Call, *, unicode: bool = False, rotate: bool = True) -> Response:
    answer = acted(call, rotate)
    changes: dict[str, object] = {}
    for name in ("access_token", "refresh_token"):
        short = (json_object(answer) or {}).get(name)
        if isinstance(short, str):
            odd = ODD_LETTERS if unicode else ""
            long = odd + random_secret(LONG_TOKEN_CHARACTERS - len(odd))
            call.grants.replace_secret(short, long)
            changes[name] = long
    return changed(answer, **changes)


@fault("The answer names another token type.", "F04", TOKEN)
def wrong_token_type(call: Call, *, value: str = "mac", rotate: bool = True) -> Response:
    return changed(acted(call, rotate), token_type=value)


@fault("The x-keap-tenant-id header names another tenant.", "F11", API)
def tenant_header_differs(call: Call, *, tenant_id: str = "zz999") -> Response:
    answer = call.act()
    answer.headers["x-keap-tenant-id"] = f"{tenant_id}.infusionsoft.com"
    return answer


@fault("The answer has no x-keap-tenant-id header.", "F11", API)
def missing_tenant_header(call: Call) -> Response:
    answer = call.act()
    answer.headers.pop("x-keap-tenant-id", None)
    return answer


@fault("User info v2 does not name the tenant.", "F11", API)
def missing_tenant_id(call: Call) -> Response:
    return lacking(call.act(), "tenant_id")

"""Faults of the redirect back to the client after Allow or Deny."""

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from flask import Response

from keap_connect.sandbox.fault_library.registry import AUTHORIZE, Call, fault

Query = list[tuple[str, str]]


def query_of(answer: Response) -> Query:
    return parse_qsl(urlsplit(answer.location or "").query, keep_blank_values=True)


def with_query(answer: Response, query: Query) -> Response:
    parts = urlsplit(answer.location or "")
    answer.location = urlunsplit(parts._replace(query=urlencode(query)))
    return answer


def without(query: Query, *names: str) -> Query:
    return [(name, value) for name, value in query if name not in names]


@fault("Denied although the person pressed Allow.", "F53", AUTHORIZE)
def denied_after_allow(call: Call) -> Response:
    return call.refuse()


@fault("The callback carries no state.", "F57", AUTHORIZE)
def callback_without_state(call: Call) -> Response:
    answer = call.act()
    return with_query(answer, without(query_of(answer), "state"))


@fault("The callback carries an empty state.", "F57", AUTHORIZE)
def callback_empty_state(call: Call) -> Response:
    answer = call.act()
    return with_query(answer, [*without(query_of(answer), "state"), ("state", "")])


@fault("The callback carries neither code nor error.", "F55", AUTHORIZE)
def callback_without_code(call: Call) -> Response:
    answer = call.act()
    return with_query(answer, without(query_of(answer), "code", "error", "error_description", "error_uri"))


@fault("The callback says server_error.", "F53", AUTHORIZE)
def callback_server_error(call: Call) -> Response:
    answer = call.refuse()
    words = {"error": "server_error", "error_description": "An error occurred"}
    return with_query(answer, [(name, words.get(name, value)) for name, value in query_of(answer)])


@fault("The person lands in Account Central; the callback is never called.", "F55", AUTHORIZE)
def never_calls_back(call: Call) -> Response:
    call.act()
    return Response("", 302, {"Location": "/app/central/home"})


@fault("The callback carries every parameter twice.", "F49", AUTHORIZE)
def callback_duplicate_params(call: Call) -> Response:
    answer = call.act()
    return with_query(answer, query_of(answer) * 2)

"""How an operation is declared: who may, what it takes, what it answers. Its request is read by the declaration."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from flask import Blueprint, Response, g, json, request
from marshmallow import Schema

from keap_connect.access.api_keys import APIKeyView, Scope
from keap_connect.accounts.naming import find_account_id
from keap_connect.api.requests import read_body, read_query
from keap_connect.api.schemas import Nothing
from keap_connect.errors import AccountNotFound

View = Callable[..., Any]
bp = Blueprint("api", __name__, url_prefix="/api")


@dataclass(frozen=True)
class Operation:
    """A declaration. `scope` is None for what is open to anyone."""

    name: str
    method: str
    path: str
    summary: str
    scope: Scope | None
    answers: dict[int, Schema]
    refusals: tuple[int, ...]
    query: Schema = field(default_factory=Nothing)
    body: Schema | None = None
    headers: Schema = field(default_factory=Nothing)
    description: str = ""


OPERATIONS: dict[str, Operation] = {}


def operation(
    method: str,
    path: str,
    *,
    scope: Scope,
    summary: str,
    answers: dict[int, Schema],
    refusals: Iterable[int] = (),
    query: Schema | None = None,
    body: Schema | None = None,
    headers: Schema | None = None,
) -> Callable[[View], View]:
    """Declare a view as an operation of the API.

    The view gets `query` and `body` as dictionaries when they are declared, and `account_id` for `<account>` in its
    path; it returns what the one schema of `answers` shows.
    """

    def declare(view: View) -> View:
        declared = Operation(
            name=view.__name__,
            method=method,
            path=path,
            summary=summary,
            scope=scope,
            answers=answers,
            refusals=tuple(refusals),
            query=query or Nothing(),
            body=body if body is not None or method == "GET" else Nothing(),
            headers=headers or Nothing(),
            description=view.__doc__ or "",
        )

        @wraps(view)
        def run(**values: Any) -> Response:
            given = _read(declared, values, takes_query=query is not None, takes_body=body is not None)
            ((status, schema),) = answers.items()
            return json_answer(schema.dump(view(**given)), status)

        run.provide_automatic_options = False  # type: ignore[attr-defined]  # no other site's scripts may come in
        OPERATIONS[f"api.{view.__name__}"] = declared
        bp.add_url_rule(path, view.__name__, run, methods=[method])
        return view

    return declare


def json_answer(body: object, status: int = 200) -> Response:
    """Answer with JSON."""
    return Response(json.dumps(body, sort_keys=False), status, mimetype="application/json")


def current_key() -> APIKeyView:
    """Return the key of this request, which was checked before."""
    key: APIKeyView = g.api_key
    return key


def visible_account_id(name: str) -> int:
    """Return the id of the account of this name.

    Raises:
        AccountNotFound: there is none, or the key may not see it.
    """
    account_id = find_account_id(name)
    if not current_key().may_see(account_id):
        raise AccountNotFound(f"There is no account {name}.")
    return account_id


def _read(declared: Operation, values: dict[str, Any], takes_query: bool, takes_body: bool) -> dict[str, Any]:
    query = read_query(declared.query, request)
    body = read_body(declared.body) if declared.body is not None else {}
    if "account" in values:
        values = {"account_id": visible_account_id(values["account"])}
        request.view_args = values  # an error may name the account it is about
    return values | ({"query": query} if takes_query else {}) | ({"body": body} if takes_body else {})

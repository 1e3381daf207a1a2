"""How an operation is declared: who may call it, what it takes and what it returns. Requests are read by that."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import wraps
from typing import Any

from flask import Blueprint, Response, g, json, request
from marshmallow import Schema

from keap_connect.access.api_keys import APIKeyView, Scope
from keap_connect.accounts.naming import find_account_id
from keap_connect.api.requests import read_body, read_query
from keap_connect.errors import KeyRestricted

View = Callable[..., Any]
NOTHING = Schema()
bp = Blueprint("api", __name__, url_prefix="/api")


@dataclass
class Operation:
    """A decorator that makes a view an operation of the API. The view's docstring is its description.

    The view gets `query` and `body` as dictionaries when they are declared, and `account_id` for `<account>` in its
    path; it returns what the schema `answer` shows.

    Args:
        refusals: further statuses of errors. whole_keys: what a key for some accounts may not do, in words.
    """

    method: str
    path: str
    summary: str
    answer: Schema
    _: KW_ONLY
    scope: Scope
    status: int = 200
    refusals: tuple[int, ...] = ()
    query: Schema = NOTHING
    body: Schema = NOTHING
    headers: Schema = NOTHING
    whole_keys: str = ""
    name: str = field(init=False)
    description: str = field(init=False)

    def __call__(self, view: View) -> View:
        self.name, self.description = view.__name__, " ".join((view.__doc__ or "").split())

        @wraps(view)
        def run(**values: Any) -> Response:
            return json_answer(self.answer.dump(view(**self._read(values))), self.status)

        run.provide_automatic_options = False  # type: ignore[attr-defined]  # no other site's scripts may come in
        OPERATIONS[f"api.{self.name}"] = self
        bp.add_url_rule(self.path, self.name, run, methods=[self.method])
        return view

    def _read(self, values: dict[str, Any]) -> dict[str, Any]:
        query = read_query(self.query, request)
        body = read_body(self.body) if self.method != "GET" else {}
        if self.whole_keys and current_key().account_ids is not None:
            raise KeyRestricted(self.whole_keys)
        if "account" in values:
            values = {"account_id": visible_account_id(values["account"])}
            request.view_args = values  # an error may name the account it is about
        declared = {"query": query} if self.query.fields else {}
        return values | declared | ({"body": body} if self.body.fields else {})


OPERATIONS: dict[str, Operation] = {}


def json_answer(body: object, status: int = 200) -> Response:
    return Response(json.dumps(body, sort_keys=False), status, mimetype="application/json")


def current_key() -> APIKeyView:
    """Return the key of this request, which was checked before."""
    key: APIKeyView = g.api_key
    return key


def visible_account_id(name: str) -> int:
    """Return the id of the account of this name; the key knows only those that it may see.

    Raises AccountNotFound; AccountAmbiguous: several accounts have this tenant.
    """
    return find_account_id(name, current_key().account_ids)

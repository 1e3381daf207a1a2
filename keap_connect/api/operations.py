"""How an operation is declared: who may call it, what it takes and what it returns. Requests are read by that."""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from functools import wraps
from typing import Any

from flask import Blueprint, Request, Response, g, json, request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from keap_connect.access.api_keys import APIKeyView, Scope
from keap_connect.accounts.naming import find_account_id
from keap_connect.api.errors import RequestRefused
from keap_connect.errors import KeyRestricted


def read_query(schema: Schema, request: Request) -> dict[str, Any]:
    """Return the parameters of the query string.

    Raises RequestRefused: a parameter is unknown, repeated or of the wrong form.
    """
    if any(len(values) > 1 for _, values in request.args.lists()):
        raise RequestRefused("The same query parameter was sent more than once.")
    return _load(schema, request.args.to_dict(), "query parameter")


def read_body(schema: Schema) -> dict[str, Any]:
    """Return the fields of the body. If the schema has none, there may be no body.

    Raises:
        RequestRefused: wrong content type, broken JSON, an unknown or repeated field, a value of the wrong form.
        RequestEntityTooLarge: it is larger than the app accepts.
    """
    body = request.get_data()
    if request.content_length is None and len(body) == request.max_content_length:
        raise RequestEntityTooLarge  # it came in chunks, and Werkzeug stops reading at the limit without an error
    if not body and not schema.fields:
        return {}
    if request.mimetype != "application/json":
        raise RequestRefused("Send JSON, with Content-Type: application/json.", 415)
    try:
        parsed = json.loads(body, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise RequestRefused("The body is not a JSON object.")
    return _load(schema, parsed, "field")


def _load(schema: Schema, values: dict[str, Any], what: str) -> dict[str, Any]:
    try:
        return dict(schema.load(values))
    except ValidationError as problem:
        raise RequestRefused(_explain(problem, schema, what)) from None


def _explain(problem: ValidationError, schema: Schema, what: str) -> str:
    """Say what is wrong with which field. The name of an unknown field may be a secret, so it is not repeated."""
    messages = problem.messages_dict
    names = {one.data_key or name for name, one in schema.fields.items()}
    sentences = [f"{name}: {' '.join(dict.fromkeys(_flat(messages[name])))}" for name in sorted(names & set(messages))]
    if set(messages) - names:
        known = ", ".join(sorted(names)) or "none"
        sentences.append(f"There is an unknown {what}; known here: {known}.")
    return " ".join(sentences)


def _flat(found: Any) -> Iterator[str]:
    """Yield the sentences; those about an item of a list are below its number."""
    for one in found.values() if isinstance(found, dict) else found:
        yield from _flat(one) if isinstance(one, dict | list) else [str(one)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same field was sent more than once")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


View = Callable[..., Any]
NOTHING = Schema()
bp = Blueprint("api", __name__, url_prefix="/api")


@dataclass
class Operation:
    """A decorator that makes a view an operation of the API. The view's docstring is its description.

    The view gets `query` and `body` as dictionaries when they are declared, and `account_id` for `<account>` in its
    path; it returns what the schema `answer` shows.
    """

    method: str
    path: str
    summary: str
    answer: Schema
    _: KW_ONLY
    scope: Scope
    status: int = 200
    refusals: tuple[int, ...] = ()  # further statuses of errors
    query: Schema = NOTHING
    body: Schema = NOTHING
    headers: Schema = NOTHING
    whole_keys: str = ""  # what a key for some accounts may not do, in words
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

"""Reads query strings and JSON bodies by their schemas. Errors never repeat what was sent."""

import json
from collections.abc import Iterator
from typing import Any

from flask import Request, request
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from keap_connect.api.errors import RequestRefused


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

"""The OpenAPI document, made by apispec from the declarations and schemas, and the page that shows it."""

import json
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Response, abort, render_template
from markupsafe import Markup, escape
from marshmallow import Schema

from keap_connect.api.examples import example_of
from keap_connect.api.operations import OPERATIONS, Operation, bp, json_answer
from keap_connect.api.questions import ACCOUNT_NAME
from keap_connect.api.schemas import Error, WebhookMessage, WebhookTest
from keap_connect.events.history import ANNOUNCED
from keap_connect.models import LARGEST_ID
from keap_connect.notifications.endpoints import TEST
from keap_connect.services import services

INTRODUCTION = (
    "One call that always answers with a valid access token of a connected Keap account. Every request carries an API "
    "key: `Authorization: Bearer kc_…`. An error has one shape: `error` for programs, `error_description` for people, "
    "`is_retryable`, and a `request_id` that is in the log. 409 means that a person must act; 429 and 503 mean: try "
    "again after `Retry-After` seconds."
)
# The most frequent calls come first.
ORDERED = {
    "Tokens": "get_token report_token",
    "Accounts": "list_accounts show_account update_account refresh create_reconnect_link disconnect import_account",
    "Invitations": "create_invitation list_invitations show_invitation resend_invitation withdraw_invitation "
    "confirm_invitation decline_invitation",
    "Events": "list_events",
    "Webhooks": "list_webhooks add_webhook update_webhook remove_webhook test_webhook list_deliveries redeliver",
}
ORDER = {group: names.split() for group, names in ORDERED.items()}
MEANINGS = {
    400: "Something in the request is missing, unknown or of the wrong form.",
    401: "There is no API key, or it is not valid.",
    403: "The API key may not do this.",
    404: "There is no such account, invitation, webhook or delivery, or not for this key.",
    408: "The body of the request did not arrive in time.",
    409: "It cannot be done now: a person must act first; or the name is that of several accounts.",
    413: "The request is too large.",
    415: "The body is not JSON.",
    429: "Too many requests.",
    500: "An error in Keap Connect. The log has the details.",
    503: "Nothing is lost; try again later.",
}
ALWAYS = (400, 401, 403, 413, 429, 500, 503)
REFERENCE = re.compile(r"#/components/schemas/(\w+)")
HEADERS = {401: "WWW-Authenticate", 403: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


class Named(NamedTuple):
    """A parameter or field, as the page shows it; `form` says which values it takes."""

    name: str
    form: str
    meaning: str


@bp.get("/openapi.json")
def openapi() -> Response:
    return json_answer(document(services().settings.public_url))


@bp.get("/docs")
def reference() -> str:
    public_url = services().settings.public_url
    groups = {group: [OPERATIONS[f"api.{name}"] for name in names] for group, names in ORDER.items()}
    return render_template(
        "api/reference.html",
        public_url=public_url,
        groups=groups,
        path_of=_path,
        error_fields=_list_shapes(document(public_url), ["Error"])["Error"],
        error=_as_json(example_of(Error())),
        errors=MEANINGS,
    )


@bp.get("/docs/<group>")
def reference_of_group(group: str) -> str:
    """Show the operations of one group, with the objects that they return."""
    if group.capitalize() not in ORDER:
        abort(404)
    written = document(services().settings.public_url)
    operations = [_show(OPERATIONS[f"api.{name}"], written) for name in ORDER[group.capitalize()]]
    shapes = _list_shapes(written, [one["answer"] for one in operations])
    return render_template(
        "api/group.html", group=group.capitalize(), groups=ORDER, operations=operations, shapes=shapes
    )


@cache
def document(public_url: str) -> dict[str, Any]:
    """Return the OpenAPI document for the app at this address."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Keap Connect token API",
        version="1.0.0",
        openapi_version="3.1.0",
        info={"description": INTRODUCTION},
        servers=[{"url": public_url}],
        security=[{"apiKey": []}],
        tags=[{"name": group} for group in ORDER],
        plugins=[plugin],
    )
    spec.components.security_scheme("apiKey", {"type": "http", "scheme": "bearer"})
    spec.components.schema("Error", schema=Error)
    for status, meaning in MEANINGS.items():
        answer = {"description": meaning, **_json("Error", example_of(Error()) if status == 409 else None)}
        if status in HEADERS:
            answer["headers"] = {HEADERS[status]: {"required": True, "schema": {"type": "string"}}}
        spec.components.response(f"Error{status}", answer)
    for group, names in ORDER.items():
        for declared in (OPERATIONS[f"api.{name}"] for name in names):
            described = {"tags": [group], **_describe(declared, plugin)}
            spec.path(_path(declared), operations={declared.method.lower(): described})
    spec.components.schema("WebhookMessage", schema=WebhookMessage)
    spec.components.schema("WebhookTest", schema=WebhookTest)
    taken = "Any status from 200 to 299 takes it; all others let it be sent again."
    spec.options["webhooks"] = {kind: _message(kind, WebhookMessage(), taken) for kind in ANNOUNCED}
    spec.options["webhooks"][TEST] = _message(TEST, WebhookTest(), "Any status takes it: a test is tried once.")
    return spec.to_dict()


def _message(kind: str, schema: Schema, taken: str) -> dict[str, Any]:
    """Describe what we send to a webhook."""
    body = _json({"$ref": f"#/components/schemas/{type(schema).__name__}"}, example_of(schema))
    shown = {"requestBody": {"required": True, **body}, "responses": {"2XX": {"description": taken}}}
    return {"post": {"summary": kind, "tags": ["Webhooks"], "security": [], **shown}}


def _path(declared: Operation) -> str:
    return re.sub(r"<(?:int:)?(\w+)>", r"{\1}", f"{bp.url_prefix}{declared.path}")


def _describe(declared: Operation, plugin: MarshmallowPlugin) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    refusals = {*ALWAYS, *declared.refusals}
    if "<account>" in declared.path:
        examples = ["7", "external:acme", "tenant:ab123"]
        schema: dict[str, Any] = {"type": "string", "pattern": ACCOUNT_NAME, "examples": examples}
        meaning = "The account's id, `external:` and the external id, or `tenant:` and a tenant that has one account."
        parameters.append({"name": "account", "in": "path", "required": True, "description": meaning, "schema": schema})
        refusals |= {404, 409}
    for name in re.findall(r"<int:(\w+)>", declared.path):
        schema = {"type": "integer", "minimum": 1, "maximum": LARGEST_ID}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
        refusals.add(404)
    if declared.method != "GET":
        refusals |= {408, 415}
    converter = plugin.converter
    assert converter is not None  # noqa: S101  (set as soon as the plugin has its spec)
    parameters += converter.schema2parameters(declared.query, location="query")
    parameters += converter.schema2parameters(declared.headers, location="header")
    return {
        "operationId": declared.name,
        "summary": declared.summary,
        "description": declared.description,
        "security": [{"apiKey": [str(declared.scope)]}],
        "parameters": parameters,
        **({"requestBody": {"required": True, **_described(declared, declared.body)}} if declared.body.fields else {}),
        "responses": {
            str(declared.status): {"description": "Done.", **_described(declared, declared.answer)},
            **{str(status): f"Error{status}" for status in sorted(refusals)},
        },
    }


def _described(declared: Operation, schema: Schema) -> dict[str, Any]:
    return _json(schema, example_of(schema, declared.name))


def _json(schema: Schema | str | dict[str, str], example: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema} | ({"example": example} if example else {})}}


def _as_json(example: dict[str, Any]) -> Markup:
    """Return it for a page, with quotes as they are: escaped, they would be a third of it."""
    return Markup(str(escape(json.dumps(example, indent=2))).replace("&#34;", '"'))  # noqa: S704


def _show(declared: Operation, written: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of an operation, from its declaration and the document."""
    path = _path(declared)
    inputs = [
        Named(one["name"], f"{one['in']}, {_form(one['schema'])}", one.get("description", ""))
        for one in written["paths"][path][declared.method.lower()]["parameters"]
        if one["in"] != "path"
    ]
    if declared.body.fields:
        body = written["components"]["schemas"][type(declared.body).__name__]
        for name, schema in body["properties"].items():
            need = ", required" if name in body.get("required", ()) else ""
            inputs.append(Named(name, f"body, {_form(schema)}{need}", schema.get("description", "")))
    return {
        "name": declared.name,
        "summary": declared.summary,
        "call": f"{declared.method} {path}",
        "scope": declared.scope,
        "description": declared.description,
        "inputs": inputs,
        "request": _as_json(example_of(declared.body, declared.name)) if declared.body.fields else None,
        "status": declared.status,
        "answer": type(declared.answer).__name__,
        "example": _as_json(example_of(declared.answer, declared.name)),
    }


def _list_shapes(written: dict[str, Any], names: Iterable[str]) -> dict[str, list[Named]]:
    """Return the fields of the schemas with these names, and of those within them."""
    found: dict[str, list[Named]] = {}
    waiting = list(dict.fromkeys(names))
    for name in waiting:
        properties = written["components"]["schemas"][name]["properties"]
        found[name] = [Named(field, _form(one), one.get("description", "")) for field, one in properties.items()]
        waiting += [inner for inner in REFERENCE.findall(str(properties)) if inner not in waiting]
    return found


def _form(schema: dict[str, Any]) -> str:
    """Say in words which values a schema takes."""
    if "anyOf" in schema:  # another schema, or null
        return f"{REFERENCE.findall(str(schema))[0]} or null"
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if "enum" in schema:
        words = " or ".join(str(value) for value in schema["enum"] if value is not None)
    elif "minimum" in schema:
        words = f"{schema['minimum']} to {schema['maximum']}"
    elif schema.get("format") == "date-time":
        words = "a time in UTC"
    elif "items" in schema:
        words = f"a list of {schema['items'].get('$ref', 'text').rpartition('/')[2]}"
    else:
        words = {"integer": "a number", "boolean": "true or false", "object": "an object"}.get(kinds[0], "text")
    longest = f", at most {schema['maxLength']} characters" if "maxLength" in schema else ""
    return words + longest + (" or null" if "null" in kinds else "")

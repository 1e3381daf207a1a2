"""The OpenAPI document, made by apispec from the declarations and schemas, and a page that shows it to people."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Response, render_template
from marshmallow import Schema

from keap_connect.api.operations import OPERATIONS, Operation, bp, json_answer
from keap_connect.api.schemas import ACCOUNT_NAME, Error
from keap_connect.services import services

TITLE = "Keap Connect token API"
VERSION = "1.0.0"
INTRODUCTION = (
    "One call that always answers with a valid access token of a connected Keap account. Every request carries an API "
    "key: `Authorization: Bearer kc_…`. An error has one shape: `error` for programs, `error_description` for people, "
    "`is_retryable`, and a `request_id` that is in the log. 409 means that a person must act; 429 and 503 mean: come "
    "back after `Retry-After` seconds."
)
# What is asked for most comes first.
ORDER = {
    "Tokens": ("get_token", "report_token"),
    "Accounts": (
        "list_accounts",
        "show_account",
        "update_account",
        "refresh",
        "create_reconnect_link",
        "disconnect",
        "import_account",
    ),
    "Events": ("list_events",),
}
MEANINGS = {
    400: "Something in the request is missing, unknown or of the wrong form.",
    401: "There is no API key, or it is not valid.",
    403: "The API key may not do this.",
    404: "There is no such account, or not for this key.",
    409: "As things stand it cannot be done: a person must act.",
    413: "The request is too large.",
    415: "The body is no JSON.",
    429: "Too many requests.",
    500: "It is our fault, and was written down.",
    503: "Nothing is lost; come back later.",
}
ALWAYS = (400, 401, 403, 413, 429, 500, 503)
LINKS = {"WWW-Authenticate": (401, 403), "Retry-After": (429, 503)}


@bp.get("/openapi.json")
def openapi() -> Response:
    """Answer with the OpenAPI document."""
    return json_answer(document(services().settings.public_url))


@bp.get("/docs")
def reference() -> str:
    """Show the document to people."""
    return render_template("api/reference.html", **described(services().settings.public_url))


def described(public_url: str) -> dict[str, object]:
    """Return what the page shows."""
    written = document(public_url)
    operations = {one.name: one for one in operations_of(written)}
    groups = {group: [operations[name] for name in names] for group, names in ORDER.items()}
    answers = [shape for listed in groups.values() for one in listed for shape in one.answers.values()]
    return {
        "public_url": public_url,
        "groups": groups,
        "shapes": shapes_of(written, answers),
        "error_fields": shapes_of(written, ["Error"])["Error"],
        "errors": MEANINGS,
    }


@cache
def document(public_url: str) -> dict[str, Any]:
    """Return the document for the app at this address."""
    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    spec = APISpec(
        title=TITLE,
        version=VERSION,
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
        spec.components.response(f"Error{status}", {"description": meaning, **_json("Error"), **_headers(status)})
    for group, names in ORDER.items():
        for declared in (OPERATIONS[f"api.{name}"] for name in names):
            described = {"tags": [group], **_describe(declared, plugin)}
            path = re.sub(r"<(\w+)>", r"{\1}", f"{bp.url_prefix}{declared.path}")
            spec.path(path, operations={declared.method.lower(): described})
    return spec.to_dict()


@dataclass(frozen=True)
class Named:
    """Something that an operation takes or answers with, in words."""

    name: str
    form: str
    meaning: str


@dataclass(frozen=True)
class Described:
    """An operation, in words. Of its answers those are told that differ from one operation to the next."""

    name: str
    summary: str
    call: str
    scope: str
    description: str
    inputs: list[Named]
    answers: dict[str, str]


def operations_of(document: dict[str, Any]) -> list[Described]:
    """Read the operations out of a document, as the page shows them; of its answers, the names of their shapes."""
    schemas = document["components"]["schemas"]

    def inputs_of(one: dict[str, Any]) -> Iterator[Named]:
        for parameter in one["parameters"]:
            if parameter["in"] != "path":
                words = parameter.get("description", "")
                yield Named(parameter["name"], f"{parameter['in']}, {_form(parameter['schema'])}", words)
        if "requestBody" in one:
            body = schemas[_shape_in(one["requestBody"])]
            for name, schema in body["properties"].items():
                need = ", required" if name in body.get("required", ()) else ""
                yield Named(name, f"body, {_form(schema)}{need}", schema.get("description", ""))

    return [
        Described(
            name=one["operationId"],
            summary=one["summary"],
            call=f"{method.upper()} {path}",
            scope=one["security"][0]["apiKey"][0],
            description=one["description"],
            inputs=list(inputs_of(one)),
            answers={status: _shape_in(answer) for status, answer in one["responses"].items() if "content" in answer},
        )
        for path, operations in document["paths"].items()
        for method, one in operations.items()
    ]


def shapes_of(document: dict[str, Any], names: Iterable[str]) -> dict[str, list[Named]]:
    """Read the fields of the schemas with these names, and of those within them."""
    found: dict[str, list[Named]] = {}
    waiting = list(dict.fromkeys(names))
    for name in waiting:
        properties = document["components"]["schemas"][name]["properties"]
        found[name] = [Named(field, _form(one), one.get("description", "")) for field, one in properties.items()]
        within = (one.get("items", {}).get("$ref", "").rpartition("/")[2] for one in properties.values())
        waiting += [inner for inner in within if inner and inner not in waiting]
    return found


def _shape_in(content: dict[str, Any]) -> str:
    reference: str = content["content"]["application/json"]["schema"]["$ref"]
    return reference.rpartition("/")[2]


def _form(schema: dict[str, Any]) -> str:
    """Say in words which values a schema takes."""
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
        words = {"integer": "a number", "boolean": "true or false"}.get(kinds[0], "text")
    longest = f", at most {schema['maxLength']} characters" if "maxLength" in schema else ""
    return words + longest + (" or null" if "null" in kinds else "")


def _describe(declared: Operation, plugin: MarshmallowPlugin) -> dict[str, Any]:
    refusals = {*ALWAYS, *declared.refusals, *([404] if "<account>" in declared.path else [])}
    described: dict[str, Any] = {
        "operationId": declared.name,
        "summary": declared.summary,
        "description": " ".join(declared.description.split()),
        "security": [{"apiKey": [str(declared.scope)]}],
        "parameters": _parameters(declared, plugin),
        "responses": {
            **{str(status): {"description": "Done.", **_json(answer)} for status, answer in declared.answers.items()},
            **{str(status): f"Error{status}" for status in sorted(refusals)},
        },
    }
    if declared.body is not None:
        described["responses"]["415"] = "Error415"
        if declared.body.fields:
            described["requestBody"] = {"required": True, **_json(declared.body)}
    return described


def _parameters(declared: Operation, plugin: MarshmallowPlugin) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if "<account>" in declared.path:
        schema = {"type": "string", "pattern": ACCOUNT_NAME, "examples": ["7", "external:acme"]}
        meaning = "The account's id, or `external:` and the external id."
        found.append({"name": "account", "in": "path", "required": True, "description": meaning, "schema": schema})
    converter = plugin.converter
    assert converter is not None  # noqa: S101  (set as soon as the plugin has its spec)
    found += converter.schema2parameters(declared.query, location="query")
    found += converter.schema2parameters(declared.headers, location="header")
    return found


def _json(schema: Schema | str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _headers(status: int) -> dict[str, Any]:
    named = [name for name, statuses in LINKS.items() if status in statuses]
    return {"headers": {name: {"required": True, "schema": {"type": "string"}} for name in named}} if named else {}


def _name(schema: type[Schema] | Schema | str) -> str:
    """Name a schema in the document as its class is named."""
    if isinstance(schema, str):
        return schema
    return schema.__name__ if isinstance(schema, type) else type(schema).__name__

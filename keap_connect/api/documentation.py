"""The OpenAPI document, made by apispec from the declarations and schemas, and a page that shows it to people."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Response, render_template
from marshmallow import Schema

from keap_connect.api.operations import OPERATIONS, Operation, bp, json_answer
from keap_connect.api.schemas import ACCOUNT_NAME, Error
from keap_connect.runtime import runtime

TITLE = "Keap Connect token API"
VERSION = "1.0.0"
INTRODUCTION = (
    "One call that always answers with a valid access token of a connected Keap account. Every request carries an API "
    "key: `Authorization: Bearer kc_…`. An error has one shape: `error` for programs, `error_description` for people, "
    "`is_retryable`, and a `request_id` that is in the log. 409 means that a person must act; 429 and 503 mean: come "
    "back after `Retry-After` seconds."
)
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
    return json_answer(document(runtime().settings.public_url))


@bp.get("/docs")
def reference() -> str:
    """Show the document to people."""
    public_url = runtime().settings.public_url
    return render_template(
        "api/reference.html", public_url=public_url, operations=operations_of(document(public_url)), errors=MEANINGS
    )


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
        plugins=[plugin],
    )
    spec.components.security_scheme("apiKey", {"type": "http", "scheme": "bearer"})
    spec.components.schema("Error", schema=Error)
    for status, meaning in MEANINGS.items():
        spec.components.response(f"Error{status}", {"description": meaning, **_json("Error"), **_headers(status)})
    for declared in OPERATIONS.values():
        described = _describe(declared, plugin)
        path = re.sub(r"<(\w+)>", r"{\1}", f"{bp.url_prefix}{declared.path}")
        spec.path(path, operations={declared.method.lower(): described})
    return spec.to_dict()


@dataclass(frozen=True)
class Input:
    """Something that an operation takes, in words."""

    name: str
    form: str
    meaning: str


@dataclass(frozen=True)
class Described:
    """An operation, in words. Of its answers those are told that differ from one operation to the next."""

    name: str
    summary: str
    call: str
    description: str
    inputs: list[Input]
    answers: dict[str, list[str]]


def operations_of(document: dict[str, Any]) -> list[Described]:
    """Read the operations out of a document, as the page shows them."""
    schemas = document["components"]["schemas"]

    def fields_of(content: dict[str, Any]) -> dict[str, Any]:
        name = content["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        found: dict[str, Any] = schemas[name]["properties"]
        return found

    def inputs_of(one: dict[str, Any]) -> Iterator[Input]:
        for parameter in one["parameters"]:
            if parameter["in"] != "path":
                words = parameter.get("description", "")
                yield Input(parameter["name"], f"{parameter['in']}, {_form(parameter['schema'])}", words)
        for name, schema in fields_of(one["requestBody"]).items() if "requestBody" in one else ():
            yield Input(name, f"body, {_form(schema)}", schema.get("description", ""))

    return [
        Described(
            name=one["operationId"],
            summary=one["summary"],
            call=f"{method.upper()} {path}",
            description=one["description"],
            inputs=list(inputs_of(one)),
            answers={status: list(fields_of(a)) for status, a in one["responses"].items() if "content" in a},
        )
        for path, operations in document["paths"].items()
        for method, one in operations.items()
    ]


def _form(schema: dict[str, Any]) -> str:
    """Say in words which values a schema takes."""
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if "minimum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    return f"at most {schema['maxLength']} characters" if "maxLength" in schema else "text"


def _describe(declared: Operation, plugin: MarshmallowPlugin) -> dict[str, Any]:
    refusals = {*ALWAYS, *declared.refusals, *([404] if "<account>" in declared.path else [])}
    described: dict[str, Any] = {
        "operationId": declared.name,
        "summary": declared.summary,
        "description": " ".join(declared.description.split()) + f" Needs the scope `{declared.scope}`.",
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

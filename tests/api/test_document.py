"""The OpenAPI document is true: whatever it allows is answered as it says, and what it does not allow is refused."""

import re

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from flask import Flask
from limits import RateLimitItemPerMinute
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig

from keap_connect.access import rate_limits
from keap_connect.api.operations import OPERATIONS
from tests.api.fixtures import Program
from tests.support.engines import on_sqlite

pytestmark = on_sqlite

QUICKLY = hypothesis.settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
FROM_OURSELVES = {"API_RATE_PER_MINUTE": "0"}


@pytest.mark.proves("R78")
@pytest.mark.parametrize("environ", [FROM_OURSELVES], indirect=True)
def test_every_operation_answers_as_the_document_says(
    app: Flask, program: Program, account_id: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rate_limits, "WRONG_KEYS_PER_MINUTE", RateLimitItemPerMinute(10_000))
    headers = {"Authorization": program.session.headers["Authorization"], "Host": program.base_url.rpartition("/")[2]}
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", app, headers=headers, config=SchemathesisConfig())
    asked = []
    for found in schema.get_all_operations():
        asked.append(found.ok().label)

        @hypothesis.given(case=found.ok().as_strategy())
        @QUICKLY
        def answers(case: schemathesis.Case) -> None:
            answer = case.call(headers=headers)
            # The tokens of the import's example are none of Keap's: its account cannot be refreshed.
            waits = answer.status_code == 503 and "retry-after" in answer.headers
            allowed = [not_a_server_error] if waits else []
            sent = {"headers": dict(headers)}
            case.validate_response(answer, excluded_checks=allowed, headers=headers, transport_kwargs=sent)

        answers()

    assert len(asked) == 24


def test_each_example_is_what_its_schema_allows(program: Program):
    document = program.get("/api/openapi.json").json()

    operations = [one for path in document["paths"].values() for one in path.values()]
    shown = [(one["operationId"], one.get("requestBody"), *one["responses"].values()) for one in operations]
    shown += [(kind, one["post"]["requestBody"]) for kind, one in document["webhooks"].items()]
    shown.append(("errors", document["components"]["responses"]["Error409"]))
    checked = set()
    for name, *bodies in shown:
        for content in (body["content"]["application/json"] for body in bodies if body and "content" in body):
            schema = {**content["schema"], "components": document["components"]}
            jsonschema_rs.validator_for(schema, validate_formats=True).validate(content["example"])
            checked.add(name)
    assert checked == {name for name, *_ in shown}


def test_the_pages_for_people_tell_every_operation_and_the_shape_of_every_answer(program: Program):
    document, overview = program.get("/api/openapi.json").json(), program.get("/api/docs").text
    groups = [program.get(f"/api/docs/{tag['name'].lower()}").text for tag in document["tags"]]
    page = "".join(groups)

    told = [one for operations in document["paths"].values() for one in operations.values()]
    assert {f"api.{one['operationId']}" for one in told} == set(OPERATIONS)
    for one in told:
        assert f'<h2 id="{one["operationId"]}">{one["summary"]}</h2>'.replace("'", "&#39;") in page
        assert one["security"] == [{"apiKey": [OPERATIONS[f"api.{one['operationId']}"].scope]}]
    for one in groups:
        links, targets = (set(re.findall(pattern, one)) for pattern in (r'href="#(\w+)"', r'id="(\w+)"'))
        assert {"main", "calls"} < links <= targets
    assert all(f"<code>{name}" in overview for name in ("external:", "tenant:ab123"))
    linked = re.findall(r'href="(/api/docs/\w+)#(\w+)"', overview)
    assert {f"api.{name}" for _, name in linked} == set(OPERATIONS)
    assert [name for path, name in linked if f'id="{name}"' not in program.get(path).text] == []
    assert page.index('id="get_token"') < page.index('id="list_accounts"') < page.index('id="list_events"')


@pytest.mark.proves("R78")
def test_what_the_server_refuses_before_the_app_is_in_the_document(program: Program):
    paths = program.get("/api/openapi.json").json()["paths"]

    told = {(method, frozenset(one["responses"])) for path in paths.values() for method, one in path.items()}
    assert [method for method, statuses in told if not {"413", "503"} < statuses] == []
    assert {method for method, statuses in told if "408" in statuses} == {method for method, _ in told} - {"get"}

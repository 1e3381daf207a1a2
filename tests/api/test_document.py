"""The OpenAPI document is true: whatever it allows is answered as it says, and what it does not allow is refused."""

import hypothesis
import pytest
import schemathesis
from flask import Flask
from limits import RateLimitItemPerMinute
from schemathesis.config import SchemathesisConfig

from keap_connect.api import rate_limits
from tests.api.fixtures import Program

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

QUICKLY = hypothesis.settings(
    max_examples=12,
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
            case.call_and_validate(headers=headers)

        answers()

    assert len(asked) == 10

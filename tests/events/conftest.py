"""The tests of the audit look at it through the token API."""

from tests.api.fixtures import account_id, new_program, program  # noqa: F401
from tests.web.fixtures import app, environ, new_app, new_visitor  # noqa: F401

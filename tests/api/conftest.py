"""What the tests of the token API share: an app without a socket, and programs that call it."""

from tests.api.fixtures import account_id, new_program, program  # noqa: F401
from tests.web.fixtures import app, environ, new_app, new_visitor, world  # noqa: F401

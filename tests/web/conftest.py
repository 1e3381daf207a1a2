"""What the tests of the pages share."""

from tests.web.fixtures import app, environ, new_app, new_visitor, world  # noqa: F401

"""What the tests of sign-in share with those of the pages: an app without a socket, and visitors at any address."""

from tests.web.fixtures import app, compiled_templates, environ, new_app, new_visitor, world  # noqa: F401

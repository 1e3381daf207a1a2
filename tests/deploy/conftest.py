from tests.web.fixtures import app, new_app  # noqa: F401

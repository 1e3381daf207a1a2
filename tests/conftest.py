"""What all tests share: the sandbox as a real program, the app on a real port, both databases, people and a clock."""

import base64
import gc
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import psycopg
import pytest
from argon2 import PasswordHasher
from flask import Flask

from keap_connect import counters, services
from keap_connect.access.admins import create_admin
from keap_connect.application import create_app
from keap_connect.database import Base, db
from keap_connect.deployment import upgrade
from keap_connect.settings import Settings
from tests.support.quick_apps import make_app, make_apps_quickly
from tests.support.sandbox import Sandbox
from tests.support.server import free_port, serve
from tests.support.visitor import Visitor

pytest_plugins = [
    f"tests.support.{name}" for name in ("browser", "postgres", "oidc_provider", "ready_commands", "drills")
]

ADMIN_EMAIL = "admin@example.com"
ADMIN_PASSWORD = "canary-password of the admin"
SECRET_KEY = "canary-secret-key-" + "k" * 32
TOKEN_KEY = base64.b64encode(bytes(range(32))).decode()

# Else the programs that a run in the background of a shell starts would ignore Ctrl-C, as such a run itself does.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; programs do not inherit a handler
    signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The tests of faults also pass where the provider makes good lost answers."""
    parser.addoption("--old-refresh-token-works", default="never", help="a position of the sandbox's switch")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let Python look for garbage only in what the tests make: what is imported for them stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    """Forget what other tests of this process counted: a command would report it."""
    counters.take()


@pytest.fixture(scope="session", autouse=True)
def quick_apps(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the apps of this process share what they compile."""
    make_apps_quickly(tmp_path_factory.mktemp("templates"))


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Let a password cost as little as argon2 allows; tests/access/test_sign_in.py checks the real cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "PASSWORD_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(scope="session")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Give one sandbox for the whole run."""
    with Sandbox.start(tmp_path_factory.mktemp("sandbox") / "sandbox.db") as running:
        yield running


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Sandbox:
    """Give the sandbox, as new."""
    sandbox_process.reset()
    return sandbox_process


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a migrated SQLite file to copy from."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def empty_postgres(new_database: Callable[..., str]) -> str:
    """Give the URL of a migrated PostgreSQL database to copy from."""
    url = new_database()
    migrate(url)
    return url


@pytest.fixture(scope="session")
def migrated_postgres(new_database: Callable[..., str], empty_postgres: str) -> str:
    """Give the URL of a migrated PostgreSQL database, emptied between tests."""
    return new_database(empty_postgres)


@pytest.fixture(scope="session")
def emptied_postgres(migrated_postgres: str) -> Iterator[Callable[[], str]]:
    """Give the function that empties that database and returns its URL.

    It keeps its connection: each new one reads the whole catalog first, which takes seven times as long as the rest.
    """
    dsn, kept = migrated_postgres.replace("+psycopg", ""), []

    def empty() -> str:
        try:
            kept[-1].execute(empty_all_tables())
        except (IndexError, psycopg.OperationalError):  # a test may stop the server
            kept.append(psycopg.connect(dsn, autocommit=True))
            kept[-1].execute(empty_all_tables())
        return migrated_postgres

    yield empty
    for each in kept:
        each.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an empty, migrated database: each test that asks for one runs on both engines."""
    if request.param == "sqlite":
        path = tmp_path / "keap_connect.db"
        shutil.copy(request.getfixturevalue("empty_sqlite"), path)
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("emptied_postgres")()
    return url


@cache
def empty_all_tables() -> bytes:
    """Return the statements that empty PostgreSQL, all in one message. TRUNCATE takes longer: it makes new files."""
    names = [table.name for table in Base.metadata.sorted_tables]
    # As TRUNCATE would, wait for what a process that was killed has still under way.
    steps = [f"LOCK TABLE {', '.join(names)}", *(f"DELETE FROM {name}" for name in reversed(names))]
    steps.append("SELECT setval(sequencename::regclass, 1, false) FROM pg_sequences WHERE last_value IS NOT NULL")
    return "; ".join(steps).encode()


def environ_of(sandbox: Sandbox, database_url: str, folder: Path) -> dict[str, str]:
    """Return the environment of an installation."""
    port = free_port()
    return {
        "PORT": str(port),
        "PUBLIC_URL": f"http://localhost:{port}",
        "SECRET_KEY": SECRET_KEY,
        "TOKEN_KEYS": TOKEN_KEY,
        "DATABASE_URL": database_url,
        "KEAP_AUTHORIZE_URL": f"{sandbox.url}/app/oauth/authorize",
        "KEAP_TOKEN_URL": f"{sandbox.url}/token",
        "KEAP_API_URL": f"{sandbox.url}/crm/rest",
        "INSTANCE_PATH": str(folder / "instance"),
        "LOG_LEVEL": "DEBUG",
    }


@pytest.fixture
def environ(sandbox: Sandbox, database_url: str, tmp_path: Path) -> dict[str, str]:
    """Give the environment that the app under test starts with; a test may change it before it asks for `app`."""
    return environ_of(sandbox, database_url, tmp_path)


@pytest.fixture
def settings(environ: dict[str, str]) -> Settings:
    """Give the settings read from that environment."""
    return Settings.from_env(environ)


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    """Give the app, listening on its port."""
    built = make_app(settings)
    with serve(built, settings.port):
        yield built
    with built.app_context():
        db.engine.dispose()


@pytest.fixture
def new_visitor(app: Flask, settings: Settings, sandbox: Sandbox) -> Callable[[], Visitor]:
    """Give the function that makes another person with another browser."""
    return lambda: Visitor(settings.public_url, sandbox)


@pytest.fixture
def visitor(new_visitor: Callable[[], Visitor]) -> Visitor:
    """Give a customer who has not been here before."""
    return new_visitor()


@pytest.fixture
def admin(app: Flask, new_visitor: Callable[[], Visitor]) -> Visitor:
    """Give an admin, signed in."""
    with app.app_context():
        create_admin(ADMIN_EMAIL, ADMIN_PASSWORD)
    person = new_visitor()
    person.sign_in(ADMIN_EMAIL, ADMIN_PASSWORD, follow=False)
    return person


class MovedClock:
    """Moves the app's clock; the sandbox has one of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset = timedelta()
        moved = self

        class MovedDatetime(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                there = (datetime.now(UTC) + moved.offset).astimezone(tz)
                return there if tz else there.replace(tzinfo=None)

        monkeypatch.setattr("keap_connect.clock.datetime", MovedDatetime)

    def advance(self, **duration: float) -> None:
        """Go forward, or back with a negative duration."""
        self.offset += timedelta(**duration)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovedClock:
    """Give the app's clock, to be moved."""
    return MovedClock(monkeypatch)


def migrate(url: str, revision: str = "head") -> None:
    """Bring an empty database to the newest revision, or to an older one."""
    os.environ.setdefault("FLASK_SKIP_DOTENV", "1")
    environ = {"PORT": "5000", "SECRET_KEY": SECRET_KEY, "TOKEN_KEYS": TOKEN_KEY, "DATABASE_URL": url}
    migrating = create_app(Settings.from_env(environ), serves=False)
    with migrating.app_context():
        upgrade(revision)
        db.engine.dispose()

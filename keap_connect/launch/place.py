"""Where and with what everything runs: the folder of this instance, its secrets, the settings, the ports."""

import errno
import os
import secrets
import socket
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from keap_connect.errors import SettingsError
from keap_connect.launch.certificate import make_certificate
from keap_connect.launch.problems import CannotRun
from keap_connect.settings import Settings

ROOT = Path(__file__).parent.parent.parent
YES = ("1", "yes", "on", "true")
NO = ("", "0", "no", "off", "false")


@dataclass(frozen=True)
class Place:
    """Where and with what the programs run, after every check has passed."""

    environ: Mapping[str, str]
    settings: Settings
    instance: Path
    certificate: Path | None

    @property
    def sandbox_port(self) -> int:
        return self.settings.port + 1

    @property
    def runs_sandbox(self) -> bool:
        return self.settings.sandbox_url == f"http://127.0.0.1:{self.sandbox_port}"


def prepare(environ: Mapping[str, str]) -> Place:
    """Make the folder of this instance, fill in the settings left open, and check them all.

    Raises:
        CannotRun: the folder, the settings or a port do not allow it.
    """
    instance = (ROOT / (value_of(environ, "INSTANCE_PATH") or "instance")).absolute()
    with writing_to(instance):
        make_folder(instance)
        environ = {**environ, **fill_in(environ, instance)}
    settings, is_https = check_settings(environ)
    check_port(settings.port, "choose another with PORT, for example `make run PORT=5010`")
    certificate = None
    if is_https:
        with writing_to(instance):
            certificate = make_certificate(instance / "tls")
    place = Place({**environ, "PUBLIC_URL": settings.public_url}, settings, instance, certificate)
    if place.runs_sandbox:
        check_port(place.sandbox_port, "choose another PORT, since the sandbox takes the one after it")
    return place


def value_of(environ: Mapping[str, str], name: str) -> str:
    """Return a setting; one that is blank counts as not set."""
    return environ.get(name, "").strip()


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn whatever keeps us from writing into one sentence."""
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or type(problem).__name__
        raise CannotRun(
            f"The folder {folder} cannot be written to ({reason}): "
            "make it writable, or name another one with INSTANCE_PATH."
        ) from None


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner can open, and see that it can be written to."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file is in its place")
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def fill_in(environ: Mapping[str, str], instance: Path) -> dict[str, str]:
    """Return the settings that nobody need make by hand: generated secrets, a database in one file."""
    database, token_keys = instance / "keap_connect.db", instance / "token_keys"
    filled = {"INSTANCE_PATH": str(instance)}

    def is_open(name: str) -> bool:
        return not value_of(environ, name) and not value_of(environ, f"{name}_FILE")

    if is_open("SECRET_KEY"):
        filled["SECRET_KEY_FILE"] = str(keep_secret(instance / "secret_key", secrets.token_urlsafe(48)))
    if is_open("TOKEN_KEYS"):
        if database.exists() and not token_keys.exists():
            raise CannotRun(
                f"{database} may hold accounts, but {token_keys}, which opens their tokens, is gone: "
                "put it back (or set TOKEN_KEYS), or move the database away."
            )
        filled["TOKEN_KEYS_FILE"] = str(keep_secret(token_keys, b64encode(secrets.token_bytes(32)).decode()))
    if is_open("DATABASE_URL"):
        filled["DATABASE_URL"] = f"sqlite:///{database}"
    return filled


def keep_secret(path: Path, value: str) -> Path:
    """Write a generated secret where there is none yet, for its owner's eyes only."""
    if not path.exists():
        # It gets its name only when it is whole: a crash in between must not leave half a key.
        unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with unfinished.open("x", encoding="ascii") as file:
            file.write(f"{value}\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    path.chmod(0o600)
    return path


def check_settings(environ: Mapping[str, str]) -> tuple[Settings, bool]:
    """Ask the app whether it would start with these settings; return them, and whether it speaks HTTPS itself.

    Raises:
        CannotRun: something is wrong; it names everything at once.
    """
    problems = []
    is_https = value_of(environ, "HTTPS").lower() in YES
    if not is_https and value_of(environ, "HTTPS").lower() not in NO:
        problems.append("HTTPS must be 1 or 0.")
    port = value_of(environ, "PORT") or "5000"
    if port.isdigit() and int(port) == 0:
        problems.append("PORT must be from 1 to 65534, not 0.")
    if is_https:
        own_url = f"https://localhost:{port if port.isdigit() else 5000}"
        if (value_of(environ, "PUBLIC_URL") or own_url).rstrip("/") != own_url:
            problems.append(f"HTTPS=1 serves {own_url}, but PUBLIC_URL says otherwise: keep one of the two.")
        environ = {**environ, "PUBLIC_URL": own_url}
    try:
        settings = Settings.from_env(environ)
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise CannotRun(*problems)
    return settings, is_https


def check_port(port: int, advice: str) -> None:
    """Refuse a port where a program listens already, or that we may not take."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with suppress(OSError), socket.socket(family) as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                raise CannotRun(f"Port {port} is taken by another program: end that one, or {advice}.")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as problem:
        raise CannotRun(f"Port {port} cannot be used ({problem.strerror}): {advice}.") from None

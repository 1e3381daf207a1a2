"""Prepares what the programs need: the folder of this instance, its secrets, the settings, the ports, a certificate."""

import errno
import fcntl
import os
import secrets
import socket
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

import trustme

from keap_connect.durable_files import put_in_place, write_beside
from keap_connect.errors import SettingsError
from keap_connect.settings import ADDRESSES, DOTENV, ROOT, Settings, read_dotenv

CERTIFICATE_DAYS = 820  # some systems refuse a certificate that is valid for more than 825 days


class CannotRun(Exception):
    """Something has to be corrected first; each argument is one sentence."""


@dataclass(frozen=True)
class Place:
    environ: Mapping[str, str]
    settings: Settings
    instance: Path
    sandbox_port: int
    certificate: Path | None
    lock: TextIO  # held as long as it is open

    @property
    def runs_sandbox(self) -> bool:
        return self.settings.sandbox_url == f"http://127.0.0.1:{self.sandbox_port}"


def prepare() -> Place:
    """Make the folder of this instance, fill in what is not set, check all settings, and store the addresses.

    Raises CannotRun: the folder, the settings or a port do not allow it, or another `make run` uses the folder.
    """
    environ = {**read_dotenv(DOTENV), **os.environ}
    instance = ROOT / (value_of(environ, "INSTANCE_PATH") or "instance")
    with writing_to(instance):
        make_folder(instance)
        lock = lock_folder(instance)
        environ |= fill_in(environ, instance)
    settings, is_https = check_settings(environ)
    check_port(settings.port, advice="choose another with PORT, for example `make run PORT=5010`")
    with writing_to(instance):
        certificate = make_certificate(instance / "tls") if is_https else None
        sandbox_port = int(environ["SANDBOX_PORT"])
        place = Place(
            environ | {"PUBLIC_URL": settings.public_url}, settings, instance, sandbox_port, certificate, lock
        )
        if place.runs_sandbox:
            advice = "choose another with SANDBOX_PORT; accounts of the sandbox must reconnect then"
            check_port(sandbox_port, ", where the sandbox is,", advice)
        # For the commands in other shells; what somebody sets takes precedence over it.
        addresses = (
            "# Written by `make run`, for the commands that run beside it.\n"
            f"PORT={settings.port}\nPUBLIC_URL={settings.public_url}\nSANDBOX_PORT={sandbox_port}\n"
        )
        put_in_place(write_beside(instance / ADDRESSES, addresses), instance / ADDRESSES)
    return place


def lock_folder(instance: Path) -> TextIO:
    """Let no other `make run` use this folder until this process ends, by whatever cause.

    Raises CannotRun: one is running.
    """
    lock = (instance / "make_run.lock").open("a", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        where = read_dotenv(instance / ADDRESSES).get("PUBLIC_URL", "starting")
        raise CannotRun(
            f"`make run` is running in {instance} already ({where}): end that one, or name another folder with "
            "INSTANCE_PATH."
        ) from None
    return lock


def choose_sandbox_port(environ: Mapping[str, str], instance: Path) -> str:
    """Return the port that the sandbox had before, since stored accounts name it; at first the one after PORT."""
    kept = read_dotenv(instance / ADDRESSES).get("SANDBOX_PORT")
    if kept:
        return kept
    if (instance / "sandbox.db").exists():  # version 0.1.0 stored no addresses and took the port after PORT
        return str(port_of(read_dotenv(DOTENV)) + 1)
    first = port_of(environ) + 1
    for port in range(first, min(first + 50, 65536)):
        with suppress(CannotRun):
            check_port(port)
            return str(port)
    return str(first)


def port_of(environ: Mapping[str, str]) -> int:
    """Return PORT, or its default if it is wrong: `check_settings` reports that."""
    port = value_of(environ, "PORT")
    return int(port) if port.isdigit() and len(port) <= 5 and 0 < int(port) < 65535 else 5000


def value_of(environ: Mapping[str, str], name: str) -> str:
    """Return a setting; one that is blank counts as not set."""
    return environ.get(name, "").strip()


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Report in one sentence why the folder cannot be written to."""
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or type(problem).__name__
        raise CannotRun(
            f"The folder {folder} cannot be written to ({reason}): "
            "make it writable, or name another one with INSTANCE_PATH."
        ) from None


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner can open, and write to it once as a check."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file is in its place")
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def fill_in(environ: Mapping[str, str], instance: Path) -> dict[str, str]:
    """Return what nobody has set: the folder, the files of generated secrets, and the port of the sandbox."""
    sandbox_port = value_of(environ, "SANDBOX_PORT") or choose_sandbox_port(environ, instance)
    filled = {"INSTANCE_PATH": str(instance), "SANDBOX_PORT": sandbox_port}
    values = {"SECRET_KEY": secrets.token_urlsafe(48), "TOKEN_KEYS": b64encode(secrets.token_bytes(32)).decode()}
    for name, value in values.items():
        if value_of(environ, name) or value_of(environ, f"{name}_FILE"):
            continue
        path, database = instance / name.lower(), instance / "keap_connect.db"
        if not path.exists():
            if name == "TOKEN_KEYS" and database.exists():
                raise CannotRun(
                    f"{database} may hold accounts, but {path}, which opens their tokens, is gone: "
                    "put it back (or set TOKEN_KEYS), or move the database away."
                )
            put_in_place(write_beside(path, f"{value}\n"), path)  # a crash must not leave half a key
        path.chmod(0o600)
        filled[f"{name}_FILE"] = str(path)
    return filled


def check_settings(environ: Mapping[str, str]) -> tuple[Settings, bool]:
    """Return the settings, and whether the app itself serves HTTPS.

    Raises CannotRun: something is wrong; it names all of it.
    """
    problems = []
    https = value_of(environ, "HTTPS").lower()
    is_https = https in {"1", "yes", "on", "true"}
    if not is_https and https not in {"", "0", "no", "off", "false"}:
        problems.append("HTTPS must be 1 or 0.")
    if is_https:
        own_url = f"https://localhost:{port_of(environ)}"
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


def check_port(port: int, whose: str = "", advice: str = "choose another") -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with suppress(OSError), socket.socket(family) as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                raise CannotRun(
                    f"Port {port}{whose} is taken, perhaps by a `make run` that was killed: end it, or {advice}."
                )
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as problem:
        raise CannotRun(f"Port {port}{whose} cannot be used ({problem.strerror}): {advice}.") from None


def make_certificate(folder: Path) -> Path:
    """Return the file of a certificate for localhost, which is renewed before it expires; the key has the suffix .key.

    The key of its authority is never stored, so a browser that trusts `ca.pem` trusts only this certificate.
    """
    certificate = folder / "localhost.pem"
    renew_after_seconds = (CERTIFICATE_DAYS - 30) * 24 * 60 * 60
    if certificate.exists() and time.time() - certificate.stat().st_mtime < renew_after_seconds:
        return certificate
    folder.mkdir(mode=0o700, exist_ok=True)
    now = datetime.now(UTC)
    authority = trustme.CA(organization_name="Keap Connect on this machine")
    leaf = authority.issue_cert(
        "localhost", "127.0.0.1", "::1", not_before=now, not_after=now + timedelta(days=CERTIFICATE_DAYS)
    )
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf.private_key_pem.write_to_path(certificate.with_suffix(".key"))
    certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    return certificate

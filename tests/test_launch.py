"""`make run` for real: what it makes, what it keeps, what it refuses, and that it ends whole.

Each start costs seconds, so tests share two: a first one, and a second one in the same folder on another port and with
HTTPS. Tests stand in the order in which those follow each other.
"""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from keap_connect.launch.place import choose_sandbox_port
from keap_connect.settings import ADDRESSES
from tests.support.ready_commands import LAUNCH as READY_LAUNCH
from tests.support.sandbox import Sandbox
from tests.support.visitor import Visitor

ROOT = Path(__file__).parent.parent
# Blank counts as not set, and wins over what a developer's own .env says.
BLANK = dict.fromkeys(
    [
        *("KEAP_CLIENT_ID", "KEAP_CLIENT_SECRET", "KEAP_CLIENT_SECRET_FILE", "KEAP_ISSUER", "KEAP_PKCE"),
        *("KEAP_AUTHORIZE_URL", "KEAP_TOKEN_URL", "KEAP_API_URL", "PUBLIC_URL", "HTTPS", "TRUSTED_PROXIES"),
        *("SECRET_KEY", "SECRET_KEY_FILE", "TOKEN_KEYS", "TOKEN_KEYS_FILE", "DATABASE_URL", "DATABASE_URL_FILE"),
        *("ADMIN_EMAIL", "ADMIN_PASSWORD", "ADMIN_PASSWORD_FILE", "PORT", "SANDBOX_PORT", "RATE_LIMIT_STORAGE"),
    ],
    "",
)


@dataclass
class Launched:
    """A `make run` that is up, and what it has printed so far."""

    process: subprocess.Popen[str]
    port: int
    instance: Path
    output: str

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/"

    @property
    def sandbox_url(self) -> str:
        return re.findall(r"http://127.0.0.1:\d+(?=/sandbox)", self.output)[0]

    @property
    def link(self) -> str | None:
        match = re.search(r"http\S+/new-password/\S+", self.output)
        return match.group() if match else None

    def stop(self, sign: signal.Signals) -> int:
        self.process.send_signal(sign)
        return self.process.wait(60)


def free_port() -> int:
    """Return a port that is free together with the next one, which the sandbox takes."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def environ_for(instance: Path, port: int, **settings: str) -> dict[str, str]:
    return {**os.environ, **BLANK, "INSTANCE_PATH": str(instance), "PORT": str(port), **settings}


LAUNCH = [sys.executable, "-m", "keap_connect.launch"]
PASSWORD = "a password that the first admin chose"


@contextmanager
def launched(instance: Path, command: list[str] = LAUNCH, **settings: str) -> Iterator[Launched]:
    port = free_port()
    with subprocess.Popen(
        command, cwd=ROOT, env=environ_for(instance, port, **settings), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C ends it" in line:
                break
        else:
            raise AssertionError("".join(lines))
        try:
            yield Launched(process, port, instance, "".join(lines))
        finally:
            process.terminate()


Refused = Callable[..., list[str]]


def refusal_of(command: list[str], project: Path, environ: dict[str, str]) -> list[str]:
    """Return the lines with which a launch refuses to start."""
    ended = subprocess.run(command, cwd=project, env=environ, text=True, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "running" not in ended.stdout
    return ended.stderr.splitlines()


@pytest.fixture(scope="session")
def refused(ready_command: list[str]) -> Refused:
    """Give the function that returns the lines with which a launch in a folder refuses to start."""

    def refuse(instance: Path, port: int | str | None = None, **settings: str) -> list[str]:
        environ = environ_for(instance, free_port()) | settings
        if port is not None:
            environ["PORT"] = str(port)
        return refusal_of([*ready_command, READY_LAUNCH], ROOT, environ)

    return refuse


def programs_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes below one."""
    return psutil.Process(process.pid).children(recursive=True)


def still_running(programs: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended; a zombie has, it only waits for its parent to notice."""
    return [program for program in programs if program.is_running() and program.status() != psutil.STATUS_ZOMBIE]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launch") / "instance"


@pytest.fixture(scope="module")
def first(instance: Path) -> Iterator[Launched]:
    """Give a first start, by make itself."""
    with launched(instance, command=["make", "--silent", "run"]) as running:
        yield running


def in_another_shell(instance: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody does who has set nothing, except for where this instance is."""
    environ = {"PATH": os.environ["PATH"], **BLANK, "INSTANCE_PATH": str(instance)}
    return subprocess.run(command, cwd=instance, env=environ, text=True, capture_output=True, timeout=60, check=False)


def test_a_first_start_serves_the_app_and_the_sandbox(first: Launched) -> None:
    assert requests.get(first.url, timeout=10).status_code == 200
    assert requests.get(f"{first.sandbox_url}/sandbox", timeout=10).status_code == 200
    assert first.url in first.output
    assert int(first.sandbox_url.removeprefix("http://127.0.0.1:")) > first.port  # the next one that is free


@pytest.mark.proves("R50")
def test_everything_it_makes_is_for_its_owner_only(first: Launched) -> None:
    files = [path for path in first.instance.rglob("*") if path.is_file()]

    assert {"secret_key", "token_keys", "keap_connect.db", "sandbox.db"} <= {path.name for path in files}
    assert mode_of(first.instance) == 0o700
    assert {path.name: mode_of(path) for path in files} == {path.name: 0o600 for path in files}


@pytest.mark.proves("R92")
def test_no_secret_stands_on_a_command_line_or_in_the_output(first: Launched) -> None:
    secrets = [(first.instance / name).read_text().strip() for name in ("secret_key", "token_keys")]
    commands = "\n".join(" ".join(program.cmdline()) for program in programs_of(first.process))

    assert "keap_connect serve" in commands
    for secret in secrets:
        assert secret not in commands + first.output


@pytest.mark.proves("R51")
def test_the_first_admin_chooses_a_password_by_a_link_that_works_once(first: Launched) -> None:
    assert first.link is not None
    admin = Visitor(first.url)
    admin.get(first.link)

    admin.choose_password(first.link, PASSWORD)
    admin.sign_in("admin@example.com", PASSWORD)

    assert admin.page.url == f"{first.url}accounts"
    assert admin.get(first.link).status_code == 404


def test_commands_work_in_another_shell_that_knows_nothing(first: Launched, ready_command: list[str]) -> None:
    sandbox = Sandbox(first.instance)
    sandbox.url = first.sandbox_url
    Visitor(first.url, sandbox).connect()

    token = in_another_shell(first.instance, *ready_command, "accounts", "token", "1")
    link = in_another_shell(first.instance, *ready_command, "accounts", "reconnect-link", "1")
    doctor = in_another_shell(first.instance, str(ROOT / "keap-connect"), "doctor")

    assert (token.returncode, token.stderr) == (0, "")
    assert link.stdout.startswith(f"{first.url}r/")
    assert (doctor.returncode, doctor.stderr) == (0, "")
    assert f"the sandbox at {first.sandbox_url}" in doctor.stdout


def test_a_second_launch_on_the_same_port_gets_one_sentence(first: Launched, tmp_path: Path, refused: Refused) -> None:
    assert refused(tmp_path / "other", port=first.port) == [
        f"Port {first.port} is taken, perhaps by a `make run` that was killed: end it, or choose another with PORT, "
        "for example `make run PORT=5010`."
    ]


def test_a_second_launch_in_the_same_folder_gets_one_sentence(first: Launched, refused: Refused) -> None:
    assert refused(first.instance) == [
        f"`make run` is running in {first.instance} already ({first.url.rstrip('/')}): end that one, or name another "
        "folder with INSTANCE_PATH."
    ]


@pytest.fixture(scope="module")
def second(first: Launched) -> Iterator[Launched]:
    """Give a second start in the same folder, on another port and with HTTPS; the first one has ended."""
    programs = programs_of(first.process)
    first.stop(signal.SIGTERM)
    assert len(programs) >= 3
    assert still_running(programs) == []
    (first.instance / "secret_key").chmod(0o644)  # as a copy or another program may leave it
    with launched(first.instance, HTTPS="1") as running:
        yield running


def test_a_second_start_on_another_port_keeps_the_accounts_at_the_same_sandbox(
    first: Launched, second: Launched, ready_command: list[str]
) -> None:
    refreshed = in_another_shell(second.instance, *ready_command, "accounts", "refresh", "1")

    assert second.port != first.port
    assert second.sandbox_url == first.sandbox_url
    assert (refreshed.returncode, refreshed.stdout) == (0, "Refreshed: new tokens are stored.\n")
    assert second.link is None  # The first admin has a password.
    assert mode_of(second.instance / "secret_key") == 0o600


def test_https_serves_a_certificate_of_its_own(second: Launched, ready_command: list[str]) -> None:
    url, folder = f"https://localhost:{second.port}/", second.instance / "tls"

    response = requests.get(url, verify=str(folder / "ca.pem"), timeout=10)

    assert response.status_code == 200
    assert url in second.output
    assert mode_of(folder / "localhost.key") == 0o600
    again = ("admins", "reset-password", "--email", "admin@example.com")
    assert in_another_shell(second.instance, *ready_command, *again).stdout.startswith(url)


def test_when_one_program_dies_the_others_end_and_it_says_which(second: Launched) -> None:
    programs = programs_of(second.process)
    (sandbox,) = (program for program in programs if "keap_connect.sandbox" in program.cmdline())

    sandbox.kill()

    assert second.process.wait(60) == 1
    assert second.process.stdout is not None
    assert "The sandbox ended unexpectedly (signal 9)" in second.process.stdout.read()
    assert still_running(programs) == []


def test_behind_a_proxy_with_keap_and_postgresql_it_starts_the_app_alone_until_ctrl_c(
    tmp_path: Path, postgres_url: str
) -> None:
    chosen = {
        "KEAP_CLIENT_ID": "client-id-of-a-real-app",
        "KEAP_CLIENT_SECRET": "secret-of-a-real-app",
        "PUBLIC_URL": "https://connect.example.com",
        "HOST": "127.0.0.2",
        "DATABASE_URL": postgres_url.replace("postgresql+psycopg:", "postgresql:"),
        "ADMIN_EMAIL": "owner@example.com",
        "ADMIN_PASSWORD": "a password that the owner chose",
    }
    with launched(tmp_path / "instance", **chosen) as running:
        response = requests.get(
            running.url.replace("localhost", "127.0.0.2"), headers={"Host": "connect.example.com"}, timeout=10
        )

        assert response.status_code == 200
        assert "https://connect.example.com/callback" in running.output
        assert not any("keap_connect.sandbox" in program.cmdline() for program in programs_of(running.process))
        assert running.link is None
        assert chosen["ADMIN_PASSWORD"] not in running.output
        assert not (running.instance / "keap_connect.db").exists()
        programs = programs_of(running.process)
        assert (len(programs) >= 2, running.stop(signal.SIGINT), still_running(programs)) == (True, 0, [])


def test_a_folder_that_cannot_be_written_gets_one_sentence(tmp_path: Path, refused: Refused) -> None:
    # A file in its place stops root, too.
    (tmp_path / "instance").write_text("")

    assert refused(tmp_path / "instance") == [
        f"The folder {tmp_path / 'instance'} cannot be written to (a file is in its place): "
        "make it writable, or name another one with INSTANCE_PATH."
    ]


def test_half_and_wrong_settings_are_all_reported_at_once(tmp_path: Path, refused: Refused) -> None:
    problems = refused(
        tmp_path / "instance", port="70000", KEAP_CLIENT_ID="only-the-id", SECRET_KEY="short", HTTPS="perhaps"
    )

    assert len(problems) == 4
    for word in ("PORT", "KEAP_CLIENT_SECRET", "SECRET_KEY", "HTTPS"):
        assert any(problem.startswith(word) for problem in problems), word


def test_the_env_file_counts_and_the_environment_wins_over_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(ROOT / "keap_connect", project / "keap_connect")
    (project / ".env").write_text("LOG_LEVEL=loudest\nHTTPS=perhaps\n")

    (problem,) = refusal_of(LAUNCH, project, environ_for(tmp_path / "instance", free_port(), HTTPS="0"))

    assert problem.startswith("LOG_LEVEL")


def test_https_and_another_public_url_do_not_go_together(tmp_path: Path, refused: Refused) -> None:
    (problem,) = refused(tmp_path / "instance", HTTPS="1", PUBLIC_URL="http://localhost:1234")

    assert "PUBLIC_URL" in problem


def test_it_refuses_to_make_a_new_key_for_an_old_database(tmp_path: Path, refused: Refused) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    (instance / "keap_connect.db").write_bytes(b"")

    (problem,) = refused(instance)

    assert "token_keys" in problem
    assert not (instance / "token_keys").exists()


def test_a_failed_migration_is_said_and_nothing_is_left_running(tmp_path: Path, refused: Refused) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    (instance / "other.db").write_text("this is no database")

    (problem,) = refused(instance, DATABASE_URL=f"sqlite:///{instance / 'other.db'}")

    assert problem.startswith("Error: The database file is damaged (file is not a database). Restore the newest backup")


# The sandbox's port


def test_the_kept_port_of_the_sandbox_is_never_changed_in_silence(tmp_path: Path, refused: Refused) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (instance / ADDRESSES).write_text(f"SANDBOX_PORT={port}\n")
        (taken,) = refused(instance)
    (same,) = refused(instance, port=port)

    assert taken == (
        f"Port {port}, where the sandbox is, is taken, perhaps by a `make run` that was killed: end it, or choose "
        "another with SANDBOX_PORT; accounts of the sandbox must reconnect then."
    )
    assert same == f"PORT must not be {port}: the sandbox uses that one. Choose another."


def test_the_sandbox_takes_the_port_after_the_first_one_or_a_free_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keap_connect.launch.place.DOTENV", tmp_path / ".env")
    port = free_port()

    def chosen(at: int) -> str:
        return choose_sandbox_port({"PORT": str(at)}, tmp_path)

    assert chosen(port) == str(port + 1)
    with socket.create_server(("127.0.0.1", port + 1)):
        assert chosen(port) not in {str(port), str(port + 1)}
    (tmp_path / "sandbox.db").touch()  # Version 0.1.0 was here.
    assert chosen(port) == "5001"
    (tmp_path / ".env").write_text("PORT=7000\n")
    assert chosen(port) == "7001"
    (tmp_path / ADDRESSES).write_text("SANDBOX_PORT=6001\n")
    assert chosen(port) == "6001"

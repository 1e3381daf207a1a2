"""`make run` for real: what it makes, what it keeps, what it refuses, and that it ends whole."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

ROOT = Path(__file__).parent.parent
# Blank counts as not set, and wins over what a developer's own .env says.
BLANK = dict.fromkeys(
    [
        *("KEAP_CLIENT_ID", "KEAP_CLIENT_SECRET", "KEAP_CLIENT_SECRET_FILE", "KEAP_ISSUER", "KEAP_PKCE"),
        *("KEAP_AUTHORIZE_URL", "KEAP_TOKEN_URL", "KEAP_API_URL", "PUBLIC_URL", "HTTPS", "TRUSTED_PROXIES"),
        *("SECRET_KEY", "SECRET_KEY_FILE", "TOKEN_KEYS", "TOKEN_KEYS_FILE", "DATABASE_URL", "DATABASE_URL_FILE"),
        *("ADMIN_EMAIL", "ADMIN_PASSWORD", "ADMIN_PASSWORD_FILE"),
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
        return f"http://127.0.0.1:{self.port + 1}/sandbox"

    @property
    def password(self) -> str | None:
        match = re.search(r"password +(\S+)", self.output)
        return match.group(1) if match else None

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


def refused(instance: Path, port: int | str | None = None, project: Path = ROOT, **settings: str) -> list[str]:
    """Return the lines with which a launch refuses to start."""
    environ = environ_for(instance, free_port()) | settings
    if port is not None:
        environ["PORT"] = str(port)
    finished = subprocess.run(LAUNCH, cwd=project, env=environ, text=True, capture_output=True, timeout=60, check=False)
    assert finished.returncode == 1
    assert finished.stdout == ""
    return finished.stderr.splitlines()


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
    """Give a first start, which the tests of this module only look at."""
    with launched(instance) as running:
        yield running


def test_a_first_start_serves_the_app_and_the_sandbox(first: Launched) -> None:
    assert requests.get(first.url, timeout=10).status_code == 200
    assert requests.get(first.sandbox_url, timeout=10).status_code == 200
    assert first.url in first.output
    assert first.sandbox_url in first.output


@pytest.mark.proves("R50")
def test_everything_it_makes_is_for_its_owner_only(first: Launched) -> None:
    files = [path for path in first.instance.rglob("*") if path.is_file()]

    assert {"secret_key", "token_keys", "keap_connect.db", "sandbox.db"} <= {path.name for path in files}
    assert mode_of(first.instance) == 0o700
    assert {path.name: mode_of(path) for path in files} == {path.name: 0o600 for path in files}


@pytest.mark.proves("R92")
def test_no_secret_stands_on_a_command_line(first: Launched) -> None:
    secrets = [(first.instance / name).read_text().strip() for name in ("secret_key", "token_keys")]
    commands = "\n".join(" ".join(program.cmdline()) for program in programs_of(first.process))

    assert "granian" in commands
    assert first.password
    for secret in [*secrets, first.password]:
        assert secret not in commands


def test_it_prints_no_secret_but_the_first_password(first: Launched) -> None:
    for name in ("secret_key", "token_keys"):
        assert (first.instance / name).read_text().strip() not in first.output


def test_a_second_launch_on_the_same_port_gets_one_sentence(first: Launched, tmp_path: Path) -> None:
    assert refused(tmp_path / "other", port=first.port) == [
        f"Port {first.port} is taken by another program: end that one, or choose another with PORT, "
        "for example `make run PORT=5010`."
    ]


def test_a_taken_sandbox_port_gets_one_sentence(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port + 1)):
        (sentence,) = refused(tmp_path / "instance", port=port)

    assert sentence.startswith(f"Port {port + 1} is taken by another program")
    assert "sandbox" in sentence


def test_a_second_start_is_fast_and_keeps_everything(tmp_path: Path) -> None:
    instance = tmp_path / "instance"
    with launched(instance) as first:
        assert first.stop(signal.SIGTERM) == 0
    kept = {name: (instance / name).read_bytes() for name in ("secret_key", "token_keys")}

    started_at = time.monotonic()
    with launched(instance) as second:
        seconds = time.monotonic() - started_at

        assert seconds < 20
        assert second.password is None  # The admin of the first start is still there.
        assert {name: (instance / name).read_bytes() for name in kept} == kept


def test_ctrl_c_ends_every_program_it_started(tmp_path: Path) -> None:
    with launched(tmp_path / "instance") as running:
        programs = programs_of(running.process)

        assert running.stop(signal.SIGINT) == 0

    assert len(programs) >= 2
    assert still_running(programs) == []


def test_ending_make_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with launched(tmp_path / "instance", command=["make", "--silent", "run"]) as running:
        programs = programs_of(running.process)

        running.stop(signal.SIGTERM)

    assert len(programs) >= 3
    assert still_running(programs) == []


def test_when_one_program_dies_the_others_end_and_it_says_which(tmp_path: Path) -> None:
    with launched(tmp_path / "instance") as running:
        programs = programs_of(running.process)
        (sandbox,) = (program for program in programs if "keap_connect.sandbox" in program.cmdline())

        sandbox.kill()

        assert running.process.wait(60) == 1
        assert running.process.stdout is not None
        assert "The sandbox ended by itself (signal 9)" in running.process.stdout.read()
    assert still_running(programs) == []


def test_https_serves_a_certificate_of_its_own(tmp_path: Path) -> None:
    instance = tmp_path / "instance"
    with launched(instance, HTTPS="1") as running:
        response = requests.get(
            f"https://localhost:{running.port}/", verify=str(instance / "tls" / "ca.pem"), timeout=10
        )

        assert response.status_code == 200
        assert f"https://localhost:{running.port}/" in running.output
        assert mode_of(instance / "tls" / "localhost.key") == 0o600


def test_behind_a_proxy_with_keap_and_postgresql_it_starts_the_app_alone(tmp_path: Path, postgres_url: str) -> None:
    chosen = {
        "KEAP_CLIENT_ID": "client-id-of-a-real-app",
        "KEAP_CLIENT_SECRET": "secret-of-a-real-app",
        "PUBLIC_URL": "https://connect.example.com",
        "DATABASE_URL": postgres_url.replace("postgresql+psycopg:", "postgresql:"),
        "ADMIN_EMAIL": "owner@example.com",
        "ADMIN_PASSWORD": "a password that the owner chose",
    }
    with launched(tmp_path / "instance", **chosen) as running:
        response = requests.get(running.url, headers={"Host": "connect.example.com"}, timeout=10)

        assert response.status_code == 200
        assert "https://connect.example.com/callback" in running.output
        assert not any("keap_connect.sandbox" in program.cmdline() for program in programs_of(running.process))
        assert running.password is None
        assert chosen["ADMIN_PASSWORD"] not in running.output
        assert not (running.instance / "keap_connect.db").exists()


def test_a_folder_that_cannot_be_written_gets_one_sentence(tmp_path: Path) -> None:
    # A file in its place stops root, too.
    (tmp_path / "instance").write_text("")

    assert refused(tmp_path / "instance") == [
        f"The folder {tmp_path / 'instance'} cannot be written to (a file is in its place): "
        "make it writable, or name another one with INSTANCE_PATH."
    ]


def test_half_and_wrong_settings_are_all_reported_at_once(tmp_path: Path) -> None:
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

    (problem,) = refused(tmp_path / "instance", project=project, HTTPS="0")

    assert problem.startswith("LOG_LEVEL")


def test_https_and_another_public_url_do_not_go_together(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path / "instance", HTTPS="1", PUBLIC_URL="http://localhost:1234")

    assert "PUBLIC_URL" in problem


def test_it_refuses_to_make_a_new_key_for_an_old_database(tmp_path: Path) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    (instance / "keap_connect.db").write_bytes(b"")

    (problem,) = refused(instance)

    assert "token_keys" in problem
    assert not (instance / "token_keys").exists()


def test_a_failed_migration_is_told_and_nothing_is_left_running(tmp_path: Path) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    (instance / "other.db").write_text("this is no database")

    problems = refused(instance, DATABASE_URL=f"sqlite:///{instance / 'other.db'}")

    assert problems[0] == "The database could not be brought up to date:"
    assert "file is not a database" in "\n".join(problems)

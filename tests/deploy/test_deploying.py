"""docs/deploying.md, to the letter, in a plain folder: stand-ins play what needs root, systemd or a container tool."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.credentials import new_account, replace_credential
from keap_connect.application import create_app
from keap_connect.clock import utc_now
from keap_connect.database import db, write_transaction
from keap_connect.keap.token_response import TokenResponse
from keap_connect.settings import Settings
from keap_connect.supervisor import READY
from tests.accounts.granted import store_account
from tests.conftest import SECRET_KEY, TOKEN_KEY
from tests.deploy.test_systemd import Supervisor, service_of
from tests.support.drills import Shell, documented_lines, refreshes, shell, wait_until  # noqa: F401
from tests.support.engines import on_sqlite
from tests.support.filled_versions import revision_of
from tests.support.postgres import PostgresServer
from tests.support.real_server import ROOT
from tests.support.sandbox import Sandbox
from tests.support.server import free_port
from tests.test_supply_chain import tracked_files

OLD, NEW, LINK = "keap-connect-0.2.0", "keap-connect-0.3.0", "keap-connect"
PLACES = ("/opt/", "/etc/systemd/", "/var/lib/", "/backups")
SETTINGS = {
    "PUBLIC_URL": "https://connect.example.com",
    "INSTANCE_ID": "connect-example",
    "KEAP_CLIENT_ID": "our-client-id",
    "KEAP_CLIENT_SECRET": "canary-client-secret",
    "SECRET_KEY": SECRET_KEY,
    "TOKEN_KEYS": TOKEN_KEY,
    "TRUSTED_PROXIES": "1",
    "KEAP_PROXY": "http://127.0.0.1:1",  # so that nothing reaches the real Keap
}
# Each takes only what the document gives it. `install` and `chown` leave the owner as it is.
STAND_INS = {
    "useradd": """
[ "$*" = "--system --home-dir ROOT/var/lib/keap-connect --shell /usr/sbin/nologin keap-connect" ] || exit 64
mkdir ROOT/user || exit 9""",
    "install": """
[ "$1 $2 $3 $4 $5" = "--directory --owner keap-connect --group keap-connect" ] || exit 64
[ -d ROOT/user ] || exit 1
shift 5
exec "$INSTALL" --directory "$@\"""",
    "chown": """
[ "$1" = keap-connect:keap-connect ] && [ -d ROOT/user ] && [ -f "$2" ]""",
    # Without the settings of the tests: each process has those of its .env.
    "runuser": """
[ "$1 $2 $3" = "-u keap-connect --" ] && [ -d ROOT/user ] || exit 64
shift 3
exec env -i PATH="$PATH" "$@\"""",
    "systemctl": """
exec PYTHON -c '
import json, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect("ROOT/systemd")
    line.sendall(json.dumps(sys.argv[1:]).encode())
    line.shutdown(socket.SHUT_WR)
    sys.exit(int(line.makefile().read()))
' "$@\"""",
    "docker": """
echo "$*" >> ROOT/docker
case "$*" in
"compose exec -T database "*) shift 4; exec "$@";;
"compose exec web-1 ./keap-connect "*) shift 3; exec "$@";;
"compose run --rm --no-deps web-1 "*) shift 5; exec ./keap-connect "$@";;
"compose run --rm migrate") exec ./keap-connect db upgrade;;
esac""",
}


def play(root: Path, *names: str) -> Path:
    """Write the stand-ins of these programs into a folder, and return it."""
    folder = root / "stand-ins"
    folder.mkdir()
    for name in names:
        text = STAND_INS[name].replace("ROOT", str(root)).replace("PYTHON", sys.executable)
        (folder / name).write_text(f"#!/bin/sh{text.replace('$INSTALL', shutil.which('install') or '')}\n")
        (folder / name).chmod(0o755)
    return folder


class Machine:
    """A folder that is a machine with systemd: it starts what its units say, and waits until that is ready."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[list[str]] = []
        self.outages: list[str] = []
        self.key = ""
        self._units: dict[str, str] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {"5000": str(free_port()), "5001": str(free_port())}
        (root / "etc/systemd/system").mkdir(parents=True)
        (root / "var/lib").mkdir(parents=True)
        self._path = f"{play(root, 'useradd', 'install', 'chown', 'runuser', 'systemctl')}:{os.environ['PATH']}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(root / "systemd"))
        self._listener.listen()
        threading.Thread(target=self._answer, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for process in self._running.values():
            process.kill()
            process.wait()

    def unpack(self, name: str) -> Path:
        """Put this version, compiled, into a folder, with an environment that `make` finds to be finished."""
        folder = self.root / "opt" / name
        for file in tracked_files():
            if not file.startswith(("tests/", "bench/")):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, folder / file)  # with its time: Python compares it with what is compiled
        for compiled in ROOT.glob("keap_connect/**/__pycache__"):
            shutil.copytree(compiled, folder / compiled.relative_to(ROOT))
        for unit in (folder / "deploy/systemd").iterdir():
            unit.write_text(f"# {name}\n{unit.read_text(encoding='utf-8')}", encoding="utf-8")
        (folder / ".venv/bin").mkdir(parents=True)
        (folder / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (folder / ".venv/bin/python").chmod(0o755)
        for stamp in ("venv.stamp", "run.stamp"):
            (folder / ".venv" / stamp).touch()
        return folder

    def run(self, lines: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run lines of a document, with its folders and ports on this machine; the last of them may be a shell."""
        for place in PLACES:
            lines, typed = (text.replace(place, f"{self.root}{place}") for text in (lines, typed))
        for shown, port in self._ports.items():
            lines = lines.replace(f"@{shown}", f"@{port}")
        how = {"env": {"PATH": self._path}, "capture_output": True, "text": True}
        return subprocess.run(["sh", "-c", lines], input=typed, cwd=self.root / "opt", check=False, **how)

    def store_account(self) -> None:
        """Store an account with a token that holds, and make a key for it."""
        app = create_app(Settings.from_env({**SETTINGS, "INSTANCE_PATH": f"{self.root}/var/lib/keap-connect"}))
        with app.app_context():
            with write_transaction() as session:
                granted = TokenResponse("an-access-token", "a-refresh-token", utc_now() + timedelta(days=1))
                replace_credential(new_account(session, "ab123", "1"), granted)
            self.key = issue_api_key("jobs", [Scope.TOKENS_READ], "test").text
            db.engine.dispose()

    def is_served(self) -> bool:
        """Return whether one of the web processes gives the token."""
        return any(self._serves(name) for name in self._running if "web" in name)

    def folders(self) -> dict[str, set[str]]:
        """Return in which folder each process works, and of which version its unit was."""
        works: dict[str, set[str]] = {}
        for name, process in self._running.items():
            folder = os.path.realpath(f"/proc/{process.pid}/cwd").rpartition("/")[2]
            unit = self._units[_file_of(name)].partition("\n")[0].removeprefix("# ")
            works.setdefault(name.partition("@")[0], set()).update({folder, unit})
        return works

    def _answer(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return  # the test is over
            with line:
                verb, *names = json.loads(line.makefile().read())
                self.calls.append([verb, *names])
                line.sendall(str(self._do(verb, names)).encode())

    def _do(self, verb: str, names: list[str]) -> int:
        if verb == "enable" and names.pop(0) != "--now":
            return 64
        if verb in {"enable", "daemon-reload"}:
            for unit in (self.root / "etc/systemd/system").iterdir():
                self._units[unit.name] = unit.read_text(encoding="utf-8")
        if verb not in {"enable", "daemon-reload", "start", "stop", "restart"}:
            return 64
        for name in names:
            if verb in {"stop", "restart"}:
                process = self._running.pop(name)
                process.terminate()
                process.wait()
            if verb == "restart" and not self.is_served():
                self.outages.append(name)
            if verb != "stop" and name not in self._running:
                self._start(name)
        return 0

    def _start(self, name: str) -> None:
        folder = Path(tempfile.mkdtemp(prefix="notify-", dir=self.root))
        (folder / "unit").write_text(self._units[_file_of(name)].replace("%i", name.partition("@")[2]))
        service, told = service_of(folder / "unit"), Supervisor(folder)
        environ = dict([service["Environment"].split("=")]) if "Environment" in service else {}
        self._running[name] = subprocess.Popen(
            [f"{self.root}{word}" if word.startswith("/") else word for word in service["ExecStart"].split()],
            cwd=f"{self.root}{service['WorkingDirectory']}",
            env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(told.path), **environ},
        )
        told.wait_for(READY)
        told.close()

    def _serves(self, name: str) -> bool:
        connection = HTTPConnection("127.0.0.1", int(name.partition("@")[2]), timeout=60)
        try:
            host = urlsplit(SETTINGS["PUBLIC_URL"]).netloc
            headers = {"Host": host, "Authorization": f"Bearer {self.key}", "X-Forwarded-For": "192.0.2.1"}
            connection.request("GET", "/api/v1/accounts/1/token", headers=headers)
            return b"an-access-token" in connection.getresponse().read()
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


def _file_of(name: str) -> str:
    return f"{name.partition('@')[0]}@.service"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="machine-", ignore_cleanup_errors=True) as name:
        made = Machine(Path(name))
        yield made
        made.close()


@pytest.mark.proves("R42", "R93", "F42")
def test_the_lines_for_systemd_install_upgrade_and_go_back(machine: Machine):
    units = ("keap-connect-web", "keap-connect-worker")
    env = machine.unpack(OLD) / ".env"
    env.write_text("".join(f"{name}={value}\n" for name, value in SETTINGS.items()))
    with env.open("a") as file:
        file.write(f"INSTANCE_PATH={machine.root}/var/lib/keap-connect\n")
    env.chmod(0o644)

    installed = machine.run(documented_lines("deploying.md", "useradd"))

    assert installed.returncode == 0, installed.stderr
    assert "https://connect.example.com/new-password/" in installed.stdout
    private = {machine.root / "var/lib/keap-connect": 0o700, env: 0o600}
    assert {path: path.stat().st_mode & 0o777 for path in private} == private
    assert machine.folders() == {unit: {OLD} for unit in units}
    again = machine.run(documented_lines("deploying.md", "useradd"))
    assert again.stderr.splitlines()[-1] == "Error: you@example.com is invited already."
    machine.store_account()
    assert machine.is_served()

    backup = documented_lines("backup.md", "runuser"), documented_lines("backup.md", "backup /backups/keap_connect.db")
    done = machine.run(*backup)
    assert done.returncode == 0, done.stderr
    assert (machine.root / "backups/keap_connect.db").stat().st_mode & 0o777 == 0o600

    upgrade = documented_lines("deploying.md", "cp --preserve")
    program = machine.unpack(NEW) / ".venv/bin/python"
    works = program.read_text()
    program.write_text("#!/bin/sh\nexit 1\n")
    machine.calls.clear()
    failed = machine.run(upgrade)
    assert (failed.returncode, machine.calls) == (1, [])
    assert (machine.root / "opt" / LINK).readlink() == Path(OLD)
    program.write_text(works)
    done = machine.run(upgrade)

    assert done.returncode == 0, done.stderr
    assert "The database is up to date." in done.stdout
    assert machine.folders() == {unit: {NEW} for unit in units}
    assert (machine.root / "opt" / NEW / ".env").stat().st_mode & 0o777 == 0o600
    assert (machine.is_served(), machine.outages) == (True, [])

    back = documented_lines("deploying.md", "db downgrade")
    assert f"db downgrade {revision_of('0.2.0')} --yes" in back
    done = machine.run(back)

    assert done.returncode == 0, done.stderr
    assert machine.folders() == {unit: {OLD} for unit in units}
    assert machine.is_served()


@pytest.fixture
def server() -> Iterator[str]:
    """Give the folder of a PostgreSQL server as compose.yaml sets it up: with a database and a role of one name."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        made = PostgresServer(Path(name))
        try:
            made.create()
            made.start()
            with psycopg.connect(f"host={name} user=postgres dbname=postgres", autocommit=True) as connection:
                connection.execute("CREATE ROLE keap_connect LOGIN SUPERUSER")
                connection.execute("CREATE DATABASE keap_connect OWNER keap_connect")
            yield name
        finally:
            made.stop()


@pytest.fixture
def compose(shell: Shell, server: str, tmp_path: Path) -> Shell:  # noqa: F811
    """Give a shell whose `docker` runs the commands of the containers here, on that server."""
    shell.environ |= {
        "DATABASE_URL": f"postgresql://keap_connect@/keap_connect?host={server}",
        "PGHOST": server,
        "PATH": f"{play(tmp_path, 'docker')}:{shell.environ['PATH']}",
    }
    return shell


def calls_of_docker(folder: Path) -> list[str]:
    """Return what `docker compose` was asked for since the last look."""
    file = folder / "docker"
    lines = re.findall(r"^compose (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


@pytest.mark.proves("R50", "F42")
@on_sqlite
def test_the_lines_for_containers_upgrade_back_up_and_restore(
    compose: Shell, server: str, sandbox: Sandbox, tmp_path: Path
):
    upgrade, restore = (documented_lines("deploying.md", words) for words in ("--rm migrate", "pg_restore"))
    one_after_another = [f"up --detach --no-deps --wait {name}" for name in ("worker", "web-1", "web-2")]

    failed = compose.run(upgrade, TOKEN_KEYS="mistyped")
    assert (failed.returncode, calls_of_docker(tmp_path)) == (1, ["build", "run --rm migrate"])
    assert compose.run(upgrade).returncode == 0
    assert calls_of_docker(tmp_path) == ["build", "run --rm migrate", *one_after_another]

    app = create_app(Settings.from_env(compose.environ))
    with app.app_context():
        store_account(sandbox)
        db.engine.dispose()
    dump = tmp_path / "keap_connect.dump"
    assert compose.run(documented_lines("deploying.md", "pg_dump")).returncode == 0
    assert dump.stat().st_mode & 0o777 == 0o600
    with psycopg.connect(f"host={server} user=postgres dbname=keap_connect", autocommit=True) as connection:
        connection.execute("DELETE FROM account")
    calls_of_docker(tmp_path)

    whole, broken_at = dump.read_bytes(), int(time.time())
    dump.write_bytes(whole[: len(whole) // 2])
    broken = compose.run(restore)
    assert (broken.returncode, calls_of_docker(tmp_path)[-1].split()[3]) == (1, "pg_restore")
    dump.write_bytes(whole)
    wait_until(lambda: time.time() >= broken_at + 2)  # the old database is set aside under the time in seconds
    restored = compose.run(restore)

    assert restored.returncode == 0, restored.stderr
    calls = calls_of_docker(tmp_path)
    assert (calls[0], calls[-1]) == ("stop web-1 web-2 worker", "up --detach")
    assert compose.run("./keap-connect accounts token 1").returncode == 0
    assert compose.run("./keap-connect worker --once").returncode == 4
    assert refreshes(sandbox) == 0
    assert compose.run(documented_lines("deploying.md", "confirm-only-one")).returncode == 0
    assert compose.run("./keap-connect worker --once").returncode == 0

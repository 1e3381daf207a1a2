"""Several hosts on one machine, joined by cables that can be pulled: network namespaces and pairs of virtual devices.

The rest of the world is one namespace, each host another one with two cables to it: `net` leads to Keap and callers,
`db` to the database. Sandbox and PostgreSQL run outside, as for all tests; the world passes on what hosts send to them.
The app takes a sandbox at 127.0.0.1 only, so a host's route to this address leads out of it.

Nothing of this has a name outside, and all of it is gone with the last process inside. It needs Linux, and root or a
kernel that gives users namespaces of their own; else its tests are skipped.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from http.client import HTTPConnection
from typing import Any, Self

import pytest
from sqlalchemy import URL

from tests.support.real_server import PATIENCE_SECONDS, ROOT
from tests.support.relay import Relay, connect_unix

# A socket belongs to the namespace that it was made in, also when another process uses it.
AGENT = """
import socket, sys
tests = socket.socket(fileno=int(sys.argv[1]))
tests.send(b"ready")
while tests.recv(1):
    with socket.socket() as made:
        socket.send_fds(tests, [b"made"], [made.fileno()])
"""
PACED = """
import sys
from tests.support.refreshing_process import set_pace
set_pace(float(sys.argv.pop(1)))
from keap_connect.__main__ import main
main()
"""
LOOPBACK_LEADS_OUT = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"
NEEDED = f"{LOOPBACK_LEADS_OUT} && ip link add near type veth peer name far"
RIGHTS = ((), ("--user", "--map-root-user"))  # of root, and of a user
CABLES = {"net": "10.77", "db": "10.78"}
DATABASE = "10.78.0.1"
CALLERS = ("192.0.2.7", "192.0.2.8")  # addresses for documents (RFC 5737)


class Namespace:
    """A network of its own, which lasts as long as a process in it."""

    def __init__(self, command: Sequence[str], is_of_user: bool) -> None:
        self._tests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            agent = [*command, "--net", sys.executable, "-I", "-c", AGENT, str(theirs.fileno())]
            self._agent = subprocess.Popen(agent, pass_fds=[theirs.fileno()])
        assert self._tests.recv(9) == b"ready"
        self._lock = threading.Lock()
        self.pid, self.is_of_user = self._agent.pid, is_of_user
        more = ["--user", "--preserve-credentials"] if is_of_user else []
        self.enter = ["nsenter", f"--target={self.pid}", "--net", *more]

    def close(self) -> None:
        """End its first process."""
        self._tests.close()
        self._agent.wait(PATIENCE_SECONDS)

    def shell(self, *lines: str) -> None:
        """Run lines as one who may do everything inside."""
        subprocess.run([*self.enter, "sh", "-c", " && ".join(lines)], check=True)

    def new_socket(self) -> socket.socket:
        """Make a TCP socket inside."""
        with self._lock:
            self._tests.send(b"?")
            _, handles, _, _ = socket.recv_fds(self._tests, 9, 1)
        return socket.socket(fileno=handles[0])


class World(Namespace):
    """What hosts are joined to, until the end of a `with` block."""

    def __init__(self, database: URL, keap_port: int) -> None:
        allowed = [one for one in RIGHTS if _allows(one)]
        if not allowed:
            pytest.skip(
                "no network namespaces here: they need iproute2, and root or a kernel that allows them for users"
            )
        super().__init__(["unshare", *allowed[0]], bool(allowed[0]))
        self._stack = ExitStack()
        self._stack.callback(self.close)
        addresses = [f"ip addr add {address} dev lo" for address in (DATABASE, *CALLERS)]
        self.shell("ip link set lo up", LOOPBACK_LEADS_OUT, *addresses)
        self._relay(Relay, DATABASE, 5432, partial(connect_unix, f"{database.query['host']}/.s.PGSQL.5432"))
        here = ("127.0.0.1", keap_port)
        self.way_to_keap = self._relay(WayToKeap, *here, partial(socket.create_connection, here))
        self.database_url = database.set(host=DATABASE, port=5432, query={}).render_as_string(hide_password=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new_host(self, number: int) -> "Host":
        """Join another host."""
        host = Host(self, number)
        self._stack.callback(host.close)
        return host

    def _relay(self, kind: type[Any], address: str, port: int, connect: partial[socket.socket]) -> Any:
        listening = self.new_socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(1024)
        return self._stack.enter_context(kind(listening, connect))


class WayToKeap(Relay):
    """It can lose what is sent."""

    loses_everything = False
    lost_requests = 0

    def _pass_on(self, one: socket.socket, other: socket.socket, content: bytes) -> None:
        if not self.loses_everything:
            super()._pass_on(one, other, content)
        elif content.startswith(b"POST"):
            self.lost_requests += 1


class Host(Namespace):
    """A host with its programs, which end with it."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__([*world.enter, "unshare"], world.is_of_user)
        self._world, self._number = world, number
        self.programs: list[subprocess.Popen[bytes]] = []
        self.address = f"{CABLES['net']}.{number}.2"
        self.shell("ip link set lo up", "ip addr del 127.0.0.1/8 dev lo", LOOPBACK_LEADS_OUT)
        for cable, network in CABLES.items():
            there, near = f"{network}.{number}.1", f"{network}.{number}.2"
            world.shell(
                f"ip link add {cable}{number} type veth peer name {cable} netns {self.pid}",
                f"ip addr add {there}/30 dev {cable}{number}",
                f"ip link set {cable}{number} up",
            )
            leads_to = DATABASE if cable == "db" else "default"
            self.shell(
                f"ip addr add {near}/30 dev {cable}", f"ip link set {cable} up", f"ip route add {leads_to} via {there}"
            )
        self.shell(f"ip route add 127.0.0.1 via {CABLES['net']}.{number}.1")

    def start(self, command: str, environ: Mapping[str, str], pace: float) -> subprocess.Popen[bytes]:
        """Start `./keap-connect …`; its waits are divided by the pace."""
        program = ["-m", "keap_connect", command] if pace == 1 else ["-c", PACED, str(pace), command]
        inside = {"PATH": os.environ["PATH"], "FLASK_SKIP_DOTENV": "1", **environ}
        self.programs.append(subprocess.Popen([*self.enter, sys.executable, *program], cwd=ROOT, env=inside))
        return self.programs[-1]

    def kill(self) -> None:
        """End its programs as a loss of power does."""
        for program in self.programs:
            program.kill()
        for program in self.programs:
            program.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        self.kill()
        super().close()

    def pull(self, *cables: str) -> None:
        """Pull cables out, `net` or `db`; what is sent meanwhile is lost or sent again, as TCP does."""
        self._world.shell(*(f"ip link set {cable}{self._number} down" for cable in cables))

    def plug(self, *cables: str) -> None:
        self._world.shell(*(f"ip link set {cable}{self._number} up" for cable in cables))

    def ask(
        self, method: str, path: str, port: int, headers: Mapping[str, str], caller: str
    ) -> tuple[int, dict[str, Any]]:
        """Call its web process from an address of the world, "" for any; return status and JSON."""
        with closing(HTTPConnection(self.address, port)) as connection:
            connection.sock = self._world.new_socket()
            connection.sock.settimeout(PATIENCE_SECONDS)
            connection.sock.bind((caller, 0))
            connection.sock.connect((self.address, port))
            connection.request(method, path, headers={"Host": f"localhost:{port}", **headers})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


def _allows(rights: Sequence[str]) -> bool:
    command = ["unshare", *rights, "--net", "sh", "-c", NEEDED]
    try:
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False

"""Commands that start in a tenth of the processor time: a program has imported them, and forks a process for each.

Such a command has its own environment, folder, files, signals and exit code. What is different is how it starts, and
that it has another process id than the program that waits for it, and ends a moment after that one if that is killed.

`python -m tests.support.ready_commands SOCKET` is that program. `ready_client.py` asks it.
"""

import base64
import contextlib
import importlib
import json
import os
import resource
import select
import signal
import socket
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
STOPPING = signal.SIGHUP, signal.SIGINT, signal.SIGTERM
SOME_SETTINGS = {"SECRET_KEY": string.ascii_letters, "TOKEN_KEYS": base64.b64encode(bytes(range(32))).decode()}
LAUNCH = "launch"  # instead of a command: what `make run` runs
DIES_AT = "TEST_DIES_AT"  # "module function before" or "… after": where such a command ends, as by kill -9


@pytest.fixture(scope="session")
def ready_command() -> Iterator[list[str]]:
    """Give what to type in place of `./keap-connect`."""
    with tempfile.TemporaryDirectory(prefix="commands-") as folder:
        path = f"{folder}/socket"
        server = [sys.executable, "-m", "tests.support.ready_commands", path]
        with subprocess.Popen(server, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            yield [sys.executable, "-I", "-S", str(Path(__file__).with_name("ready_client.py")), path]
            program.terminate()


def _wait_for_order(path: str) -> None:
    """Return in a process that is to run a command, and nowhere else."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while True:
            asking, _ = listening.accept()
            if os.fork() == 0:
                break
            asking.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with asking:
        _, files, *_ = socket.recv_fds(asking, 1, 3)
        order = json.loads(asking.makefile().readline())
        command = os.fork()
        if command == 0:
            asking.close()
            _prepare(order, files)
            return
        for each in (0, 1, 2, *files):
            os.close(each)
        asking.sendall(f"{command}\n".encode())
        ended = os.pidfd_open(command)
        if ended not in select.select([ended, asking], [], [])[0]:
            os.kill(command, signal.SIGKILL)  # as who asked for it was
        _, status = os.waitpid(command, 0)
        with contextlib.suppress(OSError):
            asking.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _prepare(order: dict[str, Any], files: list[int]) -> None:
    for number, each in enumerate(files):
        os.dup2(each, number)
        os.close(each)
    for sign in STOPPING:
        is_ours = sign is signal.SIGINT  # Python raises KeyboardInterrupt then
        signal.signal(sign, signal.default_int_handler if is_ours else signal.SIG_DFL)
    for number in order["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["folder"])
    resource.setrlimit(resource.RLIMIT_FSIZE, order["most_bytes"])
    sys.argv[1:] = order["arguments"]


def _die_at(module_name: str, name: str, when: str) -> None:
    module = importlib.import_module(f"keap_connect.{module_name}")
    step = getattr(module, name)

    def die(*args: object) -> None:
        if when == "after":
            step(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, die)


if __name__ == "__main__":
    import psycopg  # noqa: F401

    from keap_connect import __main__ as command_line
    from keap_connect import clock, database
    from keap_connect.application import create_app
    from keap_connect.launch import __main__ as launch
    from keap_connect.settings import Settings
    from tests.support.quick_apps import make_apps_quickly

    make_apps_quickly(Path(sys.argv[1]).parent)
    create_app(Settings.from_env(SOME_SETTINGS), serves=False)
    _wait_for_order(sys.argv[1])
    if step := os.environ.pop(DIES_AT, None):
        _die_at(*step.split())
    database.Trouble.last_at = clock.seconds_since_boot()  # as at the start of any process
    sys.exit(launch.main()) if sys.argv[1:] == [LAUNCH] else command_line.main()

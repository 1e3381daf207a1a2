"""Starts everything in order, prints where to click, and waits for the end."""

import http.client
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import IO
from urllib.parse import urlsplit

from keap_connect.errors import ExitCode, SettingsError
from keap_connect.launch.place import CannotRun, Place, prepare
from keap_connect.settings import ROOT, SECRETS
from keap_connect.signals import stop_signals

STOP_TIMEOUT_SECONDS = 40  # longer than one exchange with Keap, so that its result is still stored
POLL_SECONDS = 0.1
Output = IO[bytes] | int | None
FIRST_ADMIN = "admin@example.com"
START_TIMEOUT_SECONDS = 60
REACHED_BY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # these two mean all addresses  # noqa: S104


class Stopped(Exception):
    """A person or the system asked us to end."""


class Programs:
    """The programs that this one starts: they run until it ends them, and they end with it.

    All waiting happens here, so that a signal can end it.
    """

    def __init__(self) -> None:
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._command: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_stopping = True

    def serve(self, name: str, command: list[str], environ: Mapping[str, str], *, is_quiet: bool = False) -> None:
        """Start a program that runs until we end it; a quiet one shows only its errors."""
        self._servers[name] = spawn(command, environ, subprocess.DEVNULL if is_quiet else None)

    def finish(self, command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
        """Run a command to its end; return its exit code, and its output with the errors."""
        with tempfile.TemporaryFile() as output:
            process = self._command = spawn(command, environ, output, output)
            self.wait_until(lambda: process.poll() is not None)
            self._command = None
            output.seek(0)
            return process.returncode, output.read().decode(errors="replace")

    def wait_until(self, is_so: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait for a condition; return False when `deadline` (on the monotonic clock) passes first.

        Raises Stopped: we were asked to stop; CannotRun: one of the servers ended unexpectedly.
        """
        while not is_so():
            if self._is_stopping:
                raise Stopped
            for name, process in self._servers.items():
                if (code := process.poll()) is not None:
                    end = f"signal {-code}" if code < 0 else f"exit code {code}"
                    raise CannotRun(f"The {name} ended unexpectedly ({end}): all was ended.")
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def stop(self) -> None:
        """Ask all programs to end, the last started first; kill those that run on."""
        processes = [*self._servers.values(), *([self._command] if self._command else [])]
        for process in reversed(processes):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            # Also the processes that it started and left running.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def spawn(
    command: list[str], environ: Mapping[str, str], stdout: Output, stderr: Output = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own: Ctrl-C in the terminal reaches only us, and we end it in order."""
    return subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
    )


def main() -> int:
    """Run until a signal comes or a program ends unexpectedly; return the exit code."""
    os.umask(0o077)  # the files made from here on hold secrets: keys, databases and their journals
    programs = Programs()
    for sign in stop_signals():
        signal.signal(sign, programs.ask_to_stop)
    try:
        place = prepare()
        print(start(programs, place), flush=True)
        programs.wait_until(lambda: False)  # one of the two exceptions ends it
    except (CannotRun, SettingsError) as problem:
        print(*problem.args, sep="\n", file=sys.stderr)
        return 1
    except Stopped:
        pass
    finally:
        programs.stop()
    return 0


def start(programs: Programs, place: Place) -> str:
    """Start everything, wait until it answers, and return the text that says where to click.

    Raises CannotRun: a step failed; Stopped: we were asked to stop meanwhile.
    """
    if place.runs_sandbox:
        store = str(place.instance / "sandbox.db")
        command = [sys.executable, "-m", "keap_connect.sandbox", "--port", str(place.sandbox_port), "--store", store]
        # The sandbox acts for another company: it gets none of our secrets.
        environ = {k: v for k, v in place.environ.items() if k.removesuffix("_FILE") not in SECRETS}
        programs.serve("sandbox", command, environ, is_quiet=True)
    print("Bringing the database up to date …", flush=True)
    code, output = programs.finish(our_command("db", "upgrade"), place.environ)
    if code:
        raise CannotRun(*last_lines(output))
    print("Starting the app …", flush=True)
    command = our_command("serve")
    if place.certificate:
        command += ["--certificate", str(place.certificate), "--key", str(place.certificate.with_suffix(".key"))]
    programs.serve("app", command, place.environ)
    wait_for_answers(programs, place)
    programs.serve("worker", our_command("worker"), place.environ)
    # The last step, so that nothing can fail between making the link and showing it.
    return describe(place, invite_first_admin(programs, place))


def our_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "keap_connect", *arguments]


def wait_for_answers(programs: Programs, place: Place) -> None:
    waits = {"app": partial(answers, place.settings.port, place)}
    if place.runs_sandbox:
        waits["sandbox"] = partial(answers, place.sandbox_port)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    for name, is_answering in waits.items():
        if not programs.wait_until(is_answering, deadline):
            raise CannotRun(f"The {name} did not answer within {START_TIMEOUT_SECONDS} seconds.")


def answers(port: int, app: Place | None = None) -> bool:
    """Whether the app, or without one the sandbox, answers HTTP at a port of this machine, with any status."""
    host = REACHED_BY.get(app.settings.host, app.settings.host) if app else "127.0.0.1"
    connection = http.client.HTTPConnection(host, port, timeout=5)
    if app and app.certificate:
        context = ssl.create_default_context(cafile=app.certificate.with_name("ca.pem"))
        connection = http.client.HTTPSConnection(host, port, timeout=5, context=context)
    # The app answers only to its public name.
    headers = {"Host": urlsplit(app.settings.public_url).netloc} if app else {}
    try:
        connection.request("GET", "/healthz", headers=headers)
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def invite_first_admin(programs: Programs, place: Place) -> str | None:
    """Return the link by which the first admin chooses a password; None if they have one."""
    if place.settings.admin_email:  # then the app makes them itself, with ADMIN_PASSWORD
        return None
    command = our_command("admins", "create", "--only-first", "--with-link", "--email", FIRST_ADMIN)
    code, output = programs.finish(command, place.environ)
    if code not in {ExitCode.DONE, ExitCode.NOTHING_TO_DO}:  # nothing to do: the first admin has chosen a password
        raise CannotRun("The first admin could not be made:", *last_lines(output))
    return next((word for word in output.split() if "/new-password/" in word), None)


def last_lines(output: str) -> list[str]:
    return output.strip().splitlines()[-8:]


def describe(place: Place, invitation: str | None) -> str:
    settings = place.settings
    lines = [
        "",
        "Keap Connect is running.",
        "",
        f"  Connect a Keap account     {settings.public_url}/",
        f"  See all accounts (admin)   {settings.public_url}/accounts",
    ]
    if place.runs_sandbox:
        lines += [
            f"  The sandbox's switches     {settings.sandbox_url}/sandbox",
            "",
            "It speaks to the sandbox, a stand-in for Keap with made-up people: set KEAP_CLIENT_ID and",
            "KEAP_CLIENT_SECRET in .env to speak to Keap.",
        ]
    else:
        lines += ["", f"Keap sends people back to {settings.keap.redirect_uri}."]
    if place.certificate:
        authority = place.certificate.with_name("ca.pem")
        lines += ["", f"The browser does not know its certificate: continue past the warning, or trust {authority}."]
    if invitation:
        once = "chooses a password here. The link works once, within 3 days:"
        lines += ["", f"The first admin, {FIRST_ADMIN}, {once}", f"  {invitation}"]
    return "\n".join([*lines, "", f"Everything is kept in {place.instance}. Ctrl-C ends it."])


if __name__ == "__main__":
    sys.exit(main())

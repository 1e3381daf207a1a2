"""The programs we started: they run until we end them, and they end with us."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from keap_connect.launch.problems import CannotRun, Stopped
from keap_connect.settings import ROOT

STOP_TIMEOUT_SECONDS = 40  # longer than one exchange with Keap, so that its result is still stored
POLL_SECONDS = 0.1


class Programs:
    """The programs we started, and the wish to stop: all waiting is done here, so that it can end."""

    def __init__(self) -> None:
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._command: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Note the wish; whatever waits ends within a moment."""
        self._is_stopping = True

    def serve(self, name: str, command: list[str], environ: Mapping[str, str], *, is_quiet: bool = False) -> None:
        """Start a program that runs until we end it; of a quiet one only the errors are shown."""
        stdout = subprocess.DEVNULL if is_quiet else None
        # In a session of its own, Ctrl-C in the terminal reaches us alone, and we end it in order.
        self._servers[name] = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, start_new_session=True
        )

    def finish(self, command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
        """Run a command to its end; return exit code and output."""
        with tempfile.TemporaryFile() as output:
            process = self._command = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            self.wait_until(lambda: process.poll() is not None)
            self._command = None
            output.seek(0)
            return process.returncode, output.read().decode(errors="replace")

    def wait_until(self, is_so: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait for a condition; return False when `deadline` (on the monotonic clock) passes first.

        Raises:
            Stopped: we were asked to stop.
            CannotRun: one of the servers ended by itself.
        """
        while not is_so():
            self._look_around()
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def watch(self) -> NoReturn:
        """Stay until one of the two exceptions of `wait_until` ends it."""
        while True:
            self._look_around()
            time.sleep(POLL_SECONDS)

    def _look_around(self) -> None:
        if self._is_stopping:
            raise Stopped
        for name, process in self._servers.items():
            if process.poll() is not None:
                raise CannotRun(f"The {name} ended by itself ({describe_exit(process.returncode)}): all was ended.")

    def stop(self) -> None:
        """End what still runs, the last started first: ask, wait, and only then force."""
        processes = [*self._servers.values(), *([self._command] if self._command else [])]
        for process in reversed(processes):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            # Also what it started itself and left behind.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def describe_exit(code: int) -> str:
    """Say how a program ended; a negative code is the number of the signal that ended it."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"

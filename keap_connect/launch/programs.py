"""The programs that `make run` starts: they run until it ends them, and they end with it."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import IO

from keap_connect.launch import CannotRun, Stopped
from keap_connect.settings import ROOT

STOP_TIMEOUT_SECONDS = 40  # longer than one exchange with Keap, so that its result is still stored
POLL_SECONDS = 0.1
Output = IO[bytes] | int | None


class Programs:
    """All waiting happens here, so that a signal can end it."""

    def __init__(self) -> None:
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._command: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_stopping = True

    def serve(self, name: str, command: list[str], environ: Mapping[str, str], *, is_quiet: bool = False) -> None:
        """Start a program that runs until we end it; a quiet one shows only its errors."""
        self._servers[name] = start(command, environ, subprocess.DEVNULL if is_quiet else None)

    def finish(self, command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
        """Run a command to its end; return its exit code, and its output with the errors."""
        with tempfile.TemporaryFile() as output:
            process = self._command = start(command, environ, output, output)
            self.wait_until(lambda: process.poll() is not None)
            self._command = None
            output.seek(0)
            return process.returncode, output.read().decode(errors="replace")

    def wait_until(self, is_so: Callable[[], bool], deadline: float | None = None) -> bool:
        """Wait for a condition; return False when `deadline` (on the monotonic clock) passes first.

        Raises Stopped: we were asked to stop; CannotRun: one of the servers ended by itself.
        """
        while not is_so():
            if self._is_stopping:
                raise Stopped
            for name, process in self._servers.items():
                if (code := process.poll()) is not None:
                    end = f"signal {-code}" if code < 0 else f"exit code {code}"
                    raise CannotRun(f"The {name} ended by itself ({end}): all was ended.")
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


def start(
    command: list[str], environ: Mapping[str, str], stdout: Output, stderr: Output = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own: Ctrl-C in the terminal reaches only us, and we end it in order."""
    return subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
    )

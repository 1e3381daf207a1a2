"""Says to systemd that this process is ready, alive or ending. Without systemd it does nothing."""

import socket
from contextlib import suppress

from keap_connect.settings import read_supervisor

READY, ALIVE, ENDING = "READY=1", "WATCHDOG=1", "STOPPING=1"
NEEDS_A_MINUTE = "EXTEND_TIMEOUT_USEC=60000000"  # from now on, to end


def report(state: str) -> None:
    """Send one state. A lost one ends nothing here; systemd restarts a process that it does not hear of."""
    path, _ = read_supervisor()
    if path:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), f"\0{path[1:]}" if path.startswith("@") else path)

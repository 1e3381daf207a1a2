"""Asks for one command: `python -I -S ready_client.py SOCKET ARGUMENTS…` ends as it does; see ready_commands.py."""

import json
import os
import resource
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    order = {
        "arguments": sys.argv[2:],
        "environ": dict(os.environ),
        "folder": os.getcwd(),
        "most_bytes": resource.getrlimit(resource.RLIMIT_FSIZE),
    }
    socket.send_fds(server, [b"\n"], [0, 1, 2])
    server.sendall(json.dumps(order).encode())
    server.shutdown(socket.SHUT_WR)
    code = int(server.makefile().read())
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)

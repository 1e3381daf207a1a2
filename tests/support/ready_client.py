"""Asks for one command: `python -I -S ready_client.py SOCKET ARGUMENTS…` ends as it does; see ready_commands.py.

The signals that ask it to end go on to the command. The command is killed when this process is.
"""

import json
import os
import resource
import signal
import socket
import sys

STOPPING = signal.SIGHUP, signal.SIGINT, signal.SIGTERM
early = []  # signals from before the command was there
ignored = [sign for sign in STOPPING if signal.getsignal(sign) is signal.SIG_IGN]
for sign in set(STOPPING) - set(ignored):
    signal.signal(sign, lambda number, _: os.kill(command, number) if command else early.append(number))

command = 0
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    order = {
        "ignored": ignored,
        "arguments": sys.argv[2:],
        "environ": dict(os.environ),
        "folder": os.getcwd(),
        "most_bytes": resource.getrlimit(resource.RLIMIT_FSIZE),
    }
    socket.send_fds(server, [b"\n"], [0, 1, 2])
    server.sendall(json.dumps(order).encode() + b"\n")
    answers = server.makefile()
    command = int(answers.readline())
    for number in early:
        os.kill(command, number)
    code = int(answers.read())
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)

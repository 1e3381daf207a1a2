"""A real PgBouncer with the settings that docs/poolers.md shows, in front of the PostgreSQL of the tests.

`python -m tests.support.pgbouncer` installs it where it is missing and that is allowed, and `make test` runs it first;
else its tests are skipped. It listens on a Unix socket only, and ends with its test.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from tests.support.packages import install_by_apt
from tests.support.real_server import ROOT

START_TIMEOUT_SECONDS = 30
# What depends on where both are; the last of two lines with one name counts.
SETTINGS = """[databases]
* = host={server} user=postgres
[pgbouncer]
{shown}
pool_mode = {mode}
default_pool_size = {sessions}
unix_socket_dir = {folder}
listen_addr =
auth_type = any
logfile = {folder}/log
pidfile = {folder}/pid
{more}
"""


def find_program() -> str | None:
    """Return the path of PgBouncer, or None."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@contextmanager
def run_pgbouncer(database_url: str, mode: str, sessions: int, more: str = "") -> Iterator[str]:
    """Pool the connections to a database, in so many sessions of the server, and give the URL that leads through it.

    The folder that the URL names has its files `log` and `pid`.
    """
    program, url = find_program(), make_url(database_url)
    assert program
    as_nobody: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        (shown,) = re.findall(r"^```ini\n\[pgbouncer\]\n(.*?)^```", (ROOT / "docs/poolers.md").read_text(), re.M | re.S)
        settings = {"shown": shown, "server": url.query["host"], "mode": mode, "sessions": sessions, "folder": folder}
        settings["more"] = more
        (folder / "settings").write_text(SETTINGS.format(**settings))
        if as_nobody:  # it refuses to run as root
            shutil.chown(folder, "nobody")
        process = subprocess.Popen([program, "-q", str(folder / "settings")], **as_nobody)
        try:
            pooled = url.update_query_dict({"host": str(folder), "port": "6432"})
            _wait_for(process, folder, str(url.database))
            yield pooled.render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_SECONDS)


def _wait_for(process: subprocess.Popen[bytes], folder: Path, database: str) -> None:
    ends = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            psycopg.connect(host=str(folder), port=6432, user="postgres", dbname=database).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < ends, (folder / "log").read_text()
            time.sleep(0.02)


if __name__ == "__main__" and find_program() is None and not Path("/run/systemd/system").exists():  # it would start
    install_by_apt("pgbouncer")

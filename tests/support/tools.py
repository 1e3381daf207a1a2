"""promtool, logrotate, Docker Compose and Caddy, which check the files in deploy/.

`python -m tests.support.tools` installs what is missing where that is allowed, and `make test` runs it first; tests of
the others are skipped.
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.packages import install_by_apt

PATH = f"{os.environ['PATH']}:/usr/sbin"
PACKAGES = {"promtool": "prometheus", "logrotate": "logrotate", "docker-compose": "docker-compose", "caddy": "caddy"}


def find_tool(name: str) -> str:
    """Return the path of a program; skip the test if it is missing."""
    program = shutil.which(name, path=PATH)
    if program is None:
        pytest.skip(f"there is no {name} here: install {PACKAGES[name]}")
    return program


if __name__ == "__main__" and not Path("/run/systemd/system").exists():  # there Prometheus would start
    missing = [package for name, package in PACKAGES.items() if shutil.which(name, path=PATH) is None]
    if missing:
        install_by_apt(*missing)

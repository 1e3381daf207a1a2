"""Programs that the tests want and pip does not bring, from the system's own packages where that is allowed."""

import os
import shutil
import subprocess


def install_by_apt(*packages: str) -> bool:
    """Install some of Debian's packages as root; return whether that could be done."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    print(f"Installing {' and '.join(packages)} by apt-get …", flush=True)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        command = ["apt-get", "-qq", *arguments]
        if subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=False).returncode:
            return False
    return True

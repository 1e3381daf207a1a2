"""nginx, Caddy and HAProxy with the settings that docs/proxies.md shows, in front of a server of the tests.

`python -m tests.support.proxies` installs those that are missing where that is allowed, and `make test` runs it first;
tests of the others are skipped. Of the settings there only addresses, ports and certificate files are replaced.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.support.packages import install_by_apt
from tests.support.real_server import ROOT
from tests.support.server import free_port

HOST = "connect.example.com"
START_TIMEOUT_SECONDS = 30
# nginx wants a frame around a server, and would write to folders of the system.
NGINX = """daemon off; master_process off; pid FOLDER/pid; error_log stderr;
events {}
http {
access_log off; client_body_temp_path FOLDER/a; proxy_temp_path FOLDER/b; fastcgi_temp_path FOLDER/c;
uwsgi_temp_path FOLDER/d; scgi_temp_path FOLDER/e;
SETTINGS
}
"""
# Caddy would also listen on all addresses, on port 80, and on a port for its administration.
CADDY = """{
admin off
auto_https disable_redirects
default_bind 127.0.0.1
}
SETTINGS
"""


@dataclass(frozen=True)
class Kind:
    """One of the programs; the settings there `listens` become `listens_here`."""

    name: str
    package: str
    options: tuple[str, ...]
    frame: str
    listens: str
    listens_here: str

    @property
    def program(self) -> str | None:
        return shutil.which(self.name, path=f"{os.environ['PATH']}:/usr/sbin")


KINDS = (
    Kind("nginx", "nginx-light", ("-e", "stderr", "-c"), NGINX, "listen 443 ssl", "listen 127.0.0.1:PORT ssl"),
    Kind(
        "caddy",
        "caddy",
        ("run", "--adapter", "caddyfile", "--config"),
        CADDY,
        f"{HOST}, https:// {{",
        f"{HOST}:PORT, https://:PORT {{",
    ),
    Kind("haproxy", "haproxy", ("-db", "-f"), "SETTINGS\n", "bind :443 ssl", "bind 127.0.0.1:PORT ssl"),
)


@contextmanager
def run_proxy(kind: Kind, authority: trustme.CA, ports: tuple[int, int], folder: Path) -> Iterator[int]:
    """Run one in front of two servers, with the settings there, and give its port."""
    port = free_port()
    certificate = authority.issue_cert(HOST)
    files = {"pem": certificate.cert_chain_pems[0], "key": certificate.private_key_pem}
    for ending, file in {**files, "both.pem": certificate.private_key_and_cert_chain_pem}.items():
        file.write_to_path(str(folder / f"{HOST}.{ending}"))
    settings = _documented_settings(kind)
    # Without a digit for the servers: what replaces the first might look like the second.
    servers = {f"127.0.0.1:500{number}": f"127.0.0.1:SERVER_{name}" for number, name in enumerate("AB")}
    here = {f"SERVER_{name}": str(port) for name, port in zip("AB", ports, strict=True)}
    replaced = {kind.listens: kind.listens_here, **servers, **here, "/etc/ssl": str(folder)}
    for shown, here in replaced.items():
        assert shown in settings, f"the settings for {kind.name} do not contain {shown!r}"
        settings = settings.replace(shown, here)
    whole = kind.frame.replace("SETTINGS", settings).replace("FOLDER", str(folder)).replace("PORT", str(port))
    (folder / "settings").write_text(whole)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    assert kind.program
    command = [kind.program, *kind.options, str(folder / "settings")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    try:
        _wait_for(process, port, folder / "log")
        yield port
    finally:
        process.kill()  # what it has open is of no use any more
        process.wait(START_TIMEOUT_SECONDS)


def _documented_settings(kind: Kind) -> str:
    (shown,) = re.findall(
        rf"^```{kind.name}\n(.*?)^```", (ROOT / "docs/proxies.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return str(shown)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.02)


if __name__ == "__main__" and not Path("/run/systemd/system").exists():  # there they would start on port 80
    for kind in KINDS:
        if kind.program is None:
            install_by_apt(kind.package)

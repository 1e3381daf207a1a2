"""The image and compose.yaml. Without a container tool and the base image, the image's steps run in a plain folder."""

import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from packaging.utils import canonicalize_name

from keap_connect.deployment import VERSION
from keap_connect.settings import Settings
from tests.conftest import SECRET_KEY, TOKEN_KEY
from tests.support.drills import documented_lines
from tests.support.engines import on_sqlite
from tests.support.real_server import ROOT
from tests.support.sandbox import Sandbox
from tests.support.tools import find_tool
from tests.support.visitor import Visitor
from tests.test_supply_chain import pinned_for, tracked_files

INSTRUCTIONS = [
    line.partition(" ")[::2]
    for line in (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    if line and not line.startswith("#")
]
STARTS = [number for number, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"]
BUILD, FINAL = INSTRUCTIONS[STARTS[0] : STARTS[1]], INSTRUCTIONS[STARTS[1] :]
HOME = "/opt/keap-connect"
IMAGE = "keap-connect-of-the-tests"
BASE = INSTRUCTIONS[0][1].partition("=")[2]
PATIENCE_SECONDS = 120


def copied() -> list[str]:
    """Return the tracked files that .dockerignore leaves in."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert {name for name in kept if not (ROOT / name).exists()} == set()
    return [name for name in tracked_files() if name.partition("/")[0] in kept]


def final(word: str) -> list[str]:
    return [rest for name, rest in FINAL if name == word]


def health_check() -> list[str]:
    (found,) = final("HEALTHCHECK")
    return list(json.loads(found.partition(" CMD ")[2]))


@pytest.mark.proves("R92")
def test_the_image_has_what_the_app_reads_and_nothing_private():
    names = copied()

    assert {"app.py", "keap-connect", "docs/README.md", ".env.example", "keap_connect/__main__.py"} <= set(names)
    assert not [name for name in names if re.match(r"tests/|deploy/|bench/|\.git|\.env$|instance/", name)]


@pytest.mark.proves("R93")
def test_the_image_runs_unprivileged_with_a_health_check_and_is_named_by_its_version():
    assert final("USER") == ["10001:10001"]
    assert final("VOLUME") == ["/var/lib/keap-connect"]
    assert ast.parse(health_check()[2])
    assert f'version="{VERSION}"' in final("LABEL")[0]
    assert all("apt-get" not in rest for _, rest in INSTRUCTIONS)
    assert all("--require-hashes" in rest for word, rest in BUILD if word == "RUN" and "pip install" in rest)


def test_compose_starts_the_same_app_as_all_parts_after_the_migration():
    found = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    ours = {name: one for name, one in found.items() if one["image"] == f"keap-connect:{VERSION}"}

    assert {name: one["command"] for name, one in ours.items()} == {
        "migrate": ["db", "upgrade"],
        "web-1": ["serve"],
        "web-2": ["serve"],
        "worker": ["worker"],
    }
    for name, one in ours.items():
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["volumes"] == ["instance:/var/lib/keap-connect", "./files:/files:ro"]
        assert one["env_file"] == ".env"
        if name != "migrate":
            assert one["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert [name for name, one in found.items() if "ports" in one] == ["proxy"]


@pytest.mark.parametrize("code", [0, 1])
def test_a_backup_is_whole_and_for_its_owner_alone(tmp_path: Path, code: int):
    made, shell = tmp_path / "keap_connect.dump", {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (tmp_path / "docker").write_text(f'#!/bin/sh\n[ "$3" = -T ] && printf dump; exit {code}\n')
    (tmp_path / "docker").chmod(0o755)

    subprocess.run(documented_lines("deploying.md", "pg_dump"), shell=True, cwd=tmp_path, env=shell, check=False)

    assert made.exists() == (code == 0)
    assert code or (made.read_text(), made.stat().st_mode & 0o777) == ("dump", 0o600)


@pytest.fixture
def documented() -> dict[str, str]:
    """Return the settings that docs/deploying.md shows, with made-up secrets."""
    (shown,) = re.findall(r"^```ini\n(.*?)^```", (ROOT / "docs/deploying.md").read_text(encoding="utf-8"), re.M | re.S)
    secrets = {"SECRET_KEY": SECRET_KEY, "TOKEN_KEYS": TOKEN_KEY, "POSTGRES_PASSWORD": "canary_-password"}
    settings = dict(line.split("=", 1) for line in shown.splitlines())
    assert {name for name, value in settings.items() if not value} == set(secrets)
    return settings | secrets


def test_the_documented_settings_and_those_of_compose_are_complete(documented: dict[str, str]):
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    text = json.dumps(services["web-1"]["environment"])
    for name, value in documented.items():
        text = re.sub(rf"\$\{{{name}(:\?[^}}]*)?\}}", value, text)
    settings = Settings.from_env(documented | json.loads(text))

    assert "$" not in text
    assert settings.database_url == "postgresql+psycopg://keap_connect:canary_-password@database/keap_connect"
    assert (settings.instance_id, settings.trusted_proxies, settings.log_format) == ("connect-example", 1, "JSON")


def test_the_tools_themselves_take_compose_file_and_proxy_settings(tmp_path: Path, documented: dict[str, str]):
    shutil.copytree(ROOT / "deploy/compose", tmp_path / "deploy/compose")
    shutil.copy(ROOT / "compose.yaml", tmp_path)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in documented.items()))
    caddyfile = tmp_path / "deploy/compose/Caddyfile"
    caddy = [find_tool("caddy"), "validate", "--adapter", "caddyfile", "--config", caddyfile]
    compose = [find_tool("docker-compose"), "--project-directory", tmp_path, "-f", tmp_path / "compose.yaml"]
    inside = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PUBLIC_URL": "https://connect.example.com"}

    for command in (caddy, [*compose, "config", "--quiet"]):
        ended = subprocess.run(command, env=inside, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the steps of the image's first stage in a folder, which takes a minute."""
    folder = tmp_path_factory.mktemp("image")
    for word, rest in BUILD:
        if word == "COPY":
            names = copied() if rest.startswith(".") else rest.split()[:-1]
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        elif word == "RUN":
            subprocess.run(rest, shell=True, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


@contextlib.contextmanager
def serving(command: list[str], port: int, **options: object) -> Iterator[None]:
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        wait_until_healthy(port)
        yield
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(port: int) -> None:
    again = requests.adapters.Retry(12, backoff_factor=0.1)
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=again))
        assert session.get(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE_SECONDS).text == "ok\n"


@pytest.mark.long
@pytest.mark.proves("R93")
@on_sqlite
def test_the_steps_of_the_image_make_an_app_that_connects_and_writes_nothing_to_its_folder(
    built: Path, tmp_path: Path, environ: dict[str, str], sandbox: Sandbox
):
    command = [str(built / json.loads(final("ENTRYPOINT")[0])[0])]
    inside = environ | {"PATH": os.environ["PATH"], "INSTANCE_PATH": str(tmp_path), "DATABASE_URL": ""}
    inside["PYTHONDONTWRITEBYTECODE"] = "1"
    before = sorted(built.rglob("*"))

    subprocess.run([*command, "db", "upgrade"], env=inside, check=True)
    with serving([*command, *json.loads(final("CMD")[0])], int(environ["PORT"]), env=inside):
        subprocess.run(health_check(), cwd=built, env=inside, check=True)
        assert "You are done" in Visitor(environ["PUBLIC_URL"], sandbox).connect().text

    assert sorted(built.rglob("*")) == before
    bill = json.loads((built / "sbom.cdx.json").read_text(encoding="utf-8"))
    listed = {canonicalize_name(one["name"]) for one in bill["components"]}
    assert {one.name for one in pinned_for("requirements.txt", {"sys_platform": "linux"})} <= listed
    assert "pip" not in listed


@pytest.mark.long
@on_sqlite
def test_the_image_is_built_and_connects_from_a_read_only_file_system(environ: dict[str, str], sandbox: Sandbox):
    tool = shutil.which("podman") or shutil.which("docker")
    if tool is None or subprocess.run([tool, "image", "inspect", BASE], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no container tool here that has the image {BASE}")
    set_in_image = {"HOST", "DATABASE_URL", "INSTANCE_PATH", "AUDIT_LOG"}
    settings = [f"--env={name}={value}" for name, value in environ.items() if name not in set_in_image]
    # On the network of the host, where the sandbox is.
    volume = f"--volume={IMAGE}:/var/lib/keap-connect"
    run = [tool, "run", "--rm", "--read-only", "--cap-drop=ALL", "--network=host", volume]

    subprocess.run([tool, "build", "--file=Containerfile", f"--tag={IMAGE}", "."], cwd=ROOT, check=True)
    try:
        subprocess.run([*run, *settings, IMAGE, "db", "upgrade"], check=True)
        with serving([*run, *settings, IMAGE], int(environ["PORT"])):
            assert "You are done" in Visitor(environ["PUBLIC_URL"], sandbox).connect().text
    finally:
        subprocess.run([tool, "volume", "rm", IMAGE], check=False)

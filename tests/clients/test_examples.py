"""Every example for jobs runs as it is printed, with the addresses of this test in place of the printed ones."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests
from flask import Flask

from keap_connect.access.api_keys import Scope, issue_api_key
from keap_connect.accounts.changes import disconnect
from tests.accounts.granted import store_account
from tests.support.engines import on_sqlite
from tests.support.oidc_provider import NODE
from tests.support.sandbox import Sandbox

pytestmark = on_sqlite
ROOT = Path(__file__).parents[2]
PAGES = ("docs/jobs.md", "clients/python/README.md")
BLOCKS = [
    block for page in PAGES for block in re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
]
LANGUAGES = {"", "python", "sh", "php", "js", "cron"}  # each has a test below
FOUND = "1001 Grace\n1002 Hugo\n1003 Iris\n"
# What Keap's old SDK does with a token (infusionsoft/infusionsoft-php: Token and Infusionsoft::request).
PHP_SDK = """<?php namespace Infusionsoft;
class Token {
    public $accessToken; public $endOfLife;
    function __construct($data) {
        $this->accessToken = $data['access_token'];
        if (isset($data['expires_in'])) $this->endOfLife = time() + $data['expires_in'];
    }
}
class Infusionsoft {
    function setToken($token) { echo $token->endOfLife < time() ? 'expired' : $token->accessToken; }
}
"""


@dataclass
class Job:
    """Where the job of an example runs. `addresses`: what each printed address stands for here."""

    folder: Path
    environ: dict[str, str]
    addresses: dict[str, str] = field(default_factory=dict)

    def examples(self, language: str) -> list[str]:
        """Return the examples in a language, with the addresses of this test."""
        found = [code for name, code in BLOCKS if name == language]
        for printed, here in self.addresses.items():
            found = [code.replace(printed, here) for code in found]
        return found

    def run(self, *command: str | Path) -> str:
        """Run a command that ends well, and return what it prints."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout


@pytest.fixture
def job(app: Flask, environ: dict[str, str], sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Give the place of a job whose customer is called acme."""
    with app.app_context():
        store_account(sandbox, external_id="acme")
        key = issue_api_key("job", [Scope.TOKENS_READ, Scope.ACCOUNTS_WRITE], "a test").text
    monkeypatch.setenv("KEAP_CONNECT_KEY", key)
    folder, programs = tmp_path / "job", f"{tmp_path / 'job'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    folder.mkdir()
    settings = {name: value for name, value in environ.items() if name != "LOG_LEVEL"}
    return Job(
        folder,
        {**settings, "PATH": programs, "HOME": str(folder), "PYTHONPATH": str(ROOT), "KEAP_CONNECT_KEY": key},
        {
            "https://connect.example.com": environ["PUBLIC_URL"],
            "https://api.infusionsoft.com": sandbox.url,
            "keap.Configuration(": f'keap.Configuration(host="{sandbox.url}/crm", ',
            "https://git.example.com/keap-connect.git": f"file://{folder}",
            "/etc/sync/env": f"{folder}/env",
        },
    )


def test_each_request_gets_its_answer(job: Job):
    assert {language for language, _ in BLOCKS} == LANGUAGES
    for example in job.examples(""):
        method, path, headers, body, status, answer = re.fullmatch(
            r"(GET|POST) (\S+)\n((?:\w.*\n)*)(?:(\{.*)\n)?(?:→ (\d+) (\{.*)\n)?", example
        ).groups()
        assert headers in ("", "Authorization: Bearer kc_…\n")
        given = requests.request(
            method,
            job.environ["PUBLIC_URL"] + path,
            headers={"Authorization": f"Bearer {job.environ['KEAP_CONNECT_KEY']}"},
            json=json.loads(body) if body else None,
            timeout=10,
        )
        assert given.status_code == int(status or 200)
        assert answer is None or set(given.json()) == set(json.loads(answer))


def test_python_finds_contacts(job: Job, capsys: pytest.CaptureFixture[str]):
    with_requests, with_keaps_sdk, of_readme = job.examples("python")
    for code in (with_requests, with_keaps_sdk):
        exec(code, {})
        assert capsys.readouterr().out == FOUND
    names: dict[str, requests.Response] = {}
    exec(of_readme, names)
    assert len(names["contacts"].json()["contacts"]) == 3


def test_a_shell_finds_contacts_and_gets_a_token(job: Job):
    program = job.folder / "keap-connect"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m keap_connect "$@"\n')
    program.chmod(0o755)
    _, by_curl, by_command, _ = job.examples("sh")
    shell = shutil.which("dash") or "sh"

    assert [one["given_name"] for one in json.loads(job.run(shell, "-c", by_curl))["contacts"]] == [
        "Grace",
        "Hugo",
        "Iris",
    ]
    assert len(job.run(shell, "-c", f'{by_command}printf %s "$token"')) == 28


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git here")
def test_pip_installs_the_client_from_a_repository(job: Job):
    shutil.copytree(
        ROOT / "clients", job.folder / "clients", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"]):
        job.run("git", *command)
    # Without the package index: setuptools is in the environment of the tests.
    quietly = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "false", "PIP_NO_INDEX": "1", "PIP_QUIET": "2"}
    first, *_, of_readme = job.examples("sh")
    job.environ |= {**quietly, "PIP_TARGET": str(job.folder / "site")}

    job.run("sh", "-c", first)

    assert first == of_readme
    assert (job.folder / "site/keap_connect_client/py.typed").exists()


@pytest.mark.skipif(not shutil.which("php"), reason="there is no PHP here: install php-cli and php-curl")
def test_php_gets_a_token_that_keaps_sdk_takes(app: Flask, job: Job):
    function, with_sdk = job.examples("php")
    (job.folder / "vendor").mkdir()
    (job.folder / "vendor/autoload.php").write_text(PHP_SDK)
    (job.folder / "keap_token.php").write_text(function)
    (job.folder / "job.php").write_text(with_sdk)
    lost = "require 'keap_token.php'; try { keapToken('1'); } catch (ReconnectRequired $e) { echo $e->getMessage(); }"

    assert len(job.run("php", "job.php")) == 28
    with app.app_context():
        disconnect(1, "a test")
    assert job.run("php", "-r", lost) == f"{job.environ['PUBLIC_URL']}/reconnect/1"


def test_node_gets_a_token_or_the_reason(app: Flask, job: Job):
    (module,) = job.examples("js")
    call = "console.log(await keapToken('external:acme').catch((problem) => problem.reconnectUrl))"
    (job.folder / "job.mjs").write_text(f"{module}\n{call}\n")

    assert len(job.run(NODE, "job.mjs").strip()) == 28
    with app.app_context():
        disconnect(1, "a test")
    assert job.run(NODE, "job.mjs").strip() == f"{job.environ['PUBLIC_URL']}/reconnect/1"


def test_cron_starts_the_job_with_its_key_after_a_while(job: Job):
    (line,) = job.examples("cron")
    *_, user, command = line.strip().split(maxsplit=6)
    (job.folder / "sleep").write_text('#!/bin/sh\ntest "$1" -lt 60\n')
    (job.folder / "sleep").chmod(0o755)
    (job.folder / "env").write_text("export KEAP_CONNECT_KEY=from-the-file\n")
    (job.folder / "sync.py").write_text("import os\nprint(os.environ['KEAP_CONNECT_KEY'])\n")

    assert user == "sync"
    assert job.run("sh", "-c", command.replace(r"\%", "%")) == "from-the-file\n"

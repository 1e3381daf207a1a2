"""What the project is made of is pinned and nothing private is in it."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LISTS = tuple(f"requirements{part}.in" for part in ("", "-dev", "-bench", "-uv", "-image"))
COMPILED = tuple(name.replace(".in", ".txt") for name in LISTS)
LOWEST_PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}
NPM_LOCK = "tests/support/oidc_provider/package-lock.json"

PRIVATE_FILES = re.compile(r"(^|/)(\.env|instance/.*|.*\.(pem|key|p12|db|sqlite3?|log))$")
# Folders of one person's or one build machine; a path that every machine has (/usr, /tmp) is fine.
MACHINE_PATHS = re.compile(r"(?<![\w.:/}>*])/(?:home|root|Users|work|workspaces?|builds)/\w")
KNOWN_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}|\bxox[abprs]-\w{10,}|\bsk-\w{24,}"
    r"|\bKeapAK-[0-9a-f]{30,}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
)
NAMED_SECRETS = re.compile(
    r"""(?i)(?:secret|password|passwd|token|api_?key|token_?keys?)\w*["']?\s*[:=]\s*["']?"""
    r"""(?P<value>[A-Za-z0-9+/_-]{20,}={0,2})(?![\w.(\[])"""
)


def requirement_lines(name: str) -> list[str]:
    """Return the requirements of a file, each with its continuation lines joined."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "-"))]


def tracked_files() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so nothing says which files belong to it")
    # A build machine's checkout may belong to another user, which git would refuse to read.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def tracked_texts() -> dict[str, str]:
    texts = {}
    for name in tracked_files():
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # A picture.
    return texts


def looks_random(value: str) -> bool:
    """Tell a generated value from a word or a made-up example."""
    share = [count / len(value) for count in Counter(value).values()]
    has_all_kinds = all(re.search(kind, value) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    return has_all_kinds and -sum(part * math.log2(part) for part in share) > 3.8


def secrets_in(text: str) -> list[str]:
    found = [match.group() for match in KNOWN_SECRETS.finditer(text)]
    return found + [m["value"] for m in NAMED_SECRETS.finditer(text) if looks_random(m["value"])]


@pytest.mark.parametrize("name", LISTS)
def test_every_direct_dependency_is_pinned_and_says_what_it_is_for(name: str) -> None:
    for line in requirement_lines(name):
        assert re.fullmatch(r"[a-z0-9-]+(\[\w+\])?==[\w.]+  # .{8,}", line), line


@pytest.mark.proves("R93")
@pytest.mark.parametrize("name", COMPILED)
def test_every_dependency_is_pinned_with_hashes(name: str) -> None:
    lines = requirement_lines(name)

    assert lines
    for line in lines:
        assert re.match(r"[\w.-]+==[\w.]+ .*--hash=sha256:[0-9a-f]{64}", line), line


@pytest.mark.parametrize(("listed", "compiled"), list(zip(LISTS, COMPILED, strict=True)))
def test_the_compiled_requirements_are_those_of_the_list(listed: str, compiled: str) -> None:
    pinned = {line.split()[0] for line in requirement_lines(compiled)}

    for line in requirement_lines(listed):
        assert re.sub(r"\[\w+\]", "", line.split()[0]) in pinned, f"{line}: run `make requirements`"


def test_the_tests_run_on_the_same_versions_as_the_app() -> None:
    app, tests = ({line.split()[0] for line in requirement_lines(name)} for name in COMPILED[:2])

    assert app <= tests


@pytest.mark.proves("R93")
@pytest.mark.parametrize("name", COMPILED[:2])
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_lists_are_whole_for_the_lowest_python(name: str, system: str) -> None:
    environment = {**LOWEST_PYTHON, "sys_platform": system}
    pinned = {requirement.name for requirement in pinned_for(name, environment)}

    missing = {
        f"{requirement.name} wants {needed.name}"
        for requirement in pinned_for(name, environment)
        for needed in needs_of(requirement, environment)
        if canonicalize_name(needed.name) not in pinned
    }

    assert missing == set(), "run `make requirements`"


@pytest.mark.long
@pytest.mark.proves("R93")
@pytest.mark.parametrize("python", ["3.11.0", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize(
    ("platform", "lacking"),
    [
        ("x86_64-manylinux_2_28", None),
        ("aarch64-manylinux_2_28", None),
        ("aarch64-apple-darwin", None),
        # The gaps that README names; a package without wheels there.
        ("x86_64-apple-darwin", "argon2-cffi-bindings"),
        ("x86_64-unknown-linux-musl", "pycurl"),
        ("x86_64-pc-windows-msvc", "uvloop"),
    ],
)
def test_wheels_of_the_app_are_there_for_each_python_and_platform(platform: str, lacking: str | None, python: str):
    target = ["--only-binary", ":all:", "--python-version", python, "--python-platform", platform]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", *target, "requirements.txt"]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    if lacking is None:
        assert ended.returncode == 0, ended.stderr
    else:
        assert f"{lacking}==" in " ".join(ended.stderr.split())
        assert "has no usable wheels" in " ".join(ended.stderr.split())


def pinned_for(name: str, environment: dict[str, str]) -> list[Requirement]:
    """Return what a compiled list installs there."""
    found = (Requirement(line.split(" --hash")[0]) for line in requirement_lines(name))
    return [one for one in found if one.marker is None or one.marker.evaluate(environment)]


def needs_of(requirement: Requirement, environment: dict[str, str]) -> list[Requirement]:
    """Return what the installed package needs there; what is not installed here is needed there alone."""
    try:
        needed = [Requirement(text) for text in requires(requirement.name) or []]
    except PackageNotFoundError:
        return []
    return [one for one in needed if one.marker is None or one.marker.evaluate({**environment, "extra": ""})]


@pytest.mark.parametrize("name", LISTS + COMPILED)
def test_requirements_name_no_address(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")

    assert not re.search(r"file:/|https?:|--(index-url|extra-index-url|find-links|trusted-host)| @ ", text)


@pytest.mark.proves("R93")
def test_every_npm_package_has_a_hash_and_comes_from_the_public_registry() -> None:
    packages = json.loads((ROOT / NPM_LOCK).read_text(encoding="utf-8"))["packages"]

    for path, package in packages.items():
        if path:
            assert package["integrity"].startswith("sha512-"), path
            assert package.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")


@pytest.mark.proves("R92")
def test_no_private_file_is_tracked() -> None:
    assert [name for name in tracked_files() if PRIVATE_FILES.search(name)] == []


@pytest.mark.proves("R92")
def test_no_tracked_file_holds_a_secret() -> None:
    assert {name: found for name, text in tracked_texts().items() if (found := secrets_in(text))} == {}


def test_no_tracked_file_names_a_folder_of_one_machine() -> None:
    found = {name: MACHINE_PATHS.findall(text) for name, text in tracked_texts().items()}

    assert {name: paths for name, paths in found.items() if paths} == {}


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN " + "EC PRIVATE KEY-----",
        "SECRET_KEY=" + "Zx9_kQ2vLm7Rt4Yp1Wn8Bc3Df6Gh0Js",
        'client_secret = "' + "aB3dE5fG7hJ9kL1mN2pQ4rS6" + '"',
        '"refresh_token": "' + "hT7kPq2Zw9Xc4Vb6Nm1Lr8Yd3Fg5Js0A" + '"',
    ],
)
def test_the_scanner_finds_a_planted_secret(text: str) -> None:
    assert secrets_in(f"first line\n{text}\n")


@pytest.mark.parametrize(
    "text",
    [
        "SECRET_KEY=",
        "KEAP_CLIENT_SECRET=your-client-secret-goes-here",
        "token_url = settings.keap.token_url_of_the_server",
        'password = "correct horse battery staple"',
    ],
)
def test_the_scanner_leaves_names_and_examples_alone(text: str) -> None:
    assert secrets_in(text) == []

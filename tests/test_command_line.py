"""The commands themselves: each has help that needs no settings, and those that texts and pages name are there."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from keap_connect.cli.command import commands

ROOT = Path(__file__).parent.parent
NAMING = [
    "README.md",
    "SECURITY.md",
    "CHANGELOG.md",
    ".env.example",
    "docs/*.md",
    "templates/**/*.html",
    "keap_connect/**/*.py",
]
NAMED = re.compile(r"\./keap-connect((?: (?:[\w.,:@|/=-]+|--[\w-]+))*)")


def every_command(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, *path, name)
        else:
            yield (*path, name), command


def test_every_command_has_help_without_settings_and_speaks_json():
    ours = [(path, command) for path, command in every_command(commands) if path != ("sandbox",)]

    assert len(ours) >= 7
    for path, command in ours:
        text = CliRunner().invoke(commands, [*path, "--help"]).stdout  # nothing says how to build the app
        assert f"./keap-connect {' '.join(path)}" in text, path
        assert "Exit codes: 0 done" in text, path
        # The export is a CSV file; `accounts list --json` is its other form. The others have nothing to show.
        speaks_json = "as_json" in {parameter.name for parameter in command.params}
        assert speaks_json == (path not in {("accounts", "export"), ("serve",)}), path


def named_commands() -> set[tuple[str, ...]]:
    """Return the words after `./keap-connect` wherever it is named; `a|b` stands for each of them."""
    texts = (path.read_text(encoding="utf-8") for pattern in NAMING for path in ROOT.glob(pattern))
    lines = {found for text in texts for found in NAMED.findall(text)}
    return {tuple(shlex.split(line.replace("|", " "))) for line in lines} - {()}


@pytest.mark.parametrize("words", sorted(named_commands()), ids=" ".join)
def test_a_command_that_is_named_somewhere_is_there(words: tuple[str, ...]):
    group: click.Command = commands
    left = list(words)
    while isinstance(group, click.Group) and left and not left[0].startswith("-"):
        name = left.pop(0)
        assert name in group.commands, f"there is no ./keap-connect {' '.join(words)}"
        group = group.commands[name]
    options = {option for parameter in group.params for option in parameter.opts} | {"--help"}
    assert {word for word in left if word.startswith("--")} <= options


def test_the_executable_runs_from_any_folder_and_says_what_to_do_in_a_bare_clone(tmp_path: Path):
    (tmp_path / "keap-connect").write_bytes((ROOT / "keap-connect").read_bytes())
    (tmp_path / "keap-connect").chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "keap-connect")
    for name in ("click.py", "keap_connect.py"):  # a stranger's, or another version's
        (tmp_path / "elsewhere" / name).write_text("raise SystemExit('imported from the current folder')")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [tmp_path / "elsewhere" / "link", *words, "--help"]
        return subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False)

    bare = run()
    (tmp_path / "keap_connect").symlink_to(ROOT / "keap_connect")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    made, sandbox = run(), run("sandbox")

    assert (bare.returncode, bare.stderr) == (
        1,
        f"{tmp_path}/.venv is not there: `make run` makes it and installs what this needs.\n",
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("Usage: ./keap-connect")
    assert (sandbox.returncode, sandbox.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--help > /dev/full", "The output cannot be written (No space left on device).\n"),
        ("--help >&-", "The output cannot be written (not writable).\n"),
        ("accounts erase 1 <&-", "Erase this account for good, with its history? [y/N]: Aborted.\n"),
    ],
)
def test_a_command_ends_with_a_sentence_where_a_stream_is_closed_or_its_disk_is_full(words: str, said: str):
    line = f"exec {shlex.quote(sys.executable)} -m keap_connect {words}"

    ended = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (1, said)


def test_no_file_gets_the_number_of_a_closed_stream():
    code = "import os, keap_connect.__main__ as program; program._open_closed_streams(); print(os.dup(1))"
    line = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- 2>&-"

    ended = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)

    assert int(ended.stdout) > 2

"""docs/reference.md names each command and metric, and none that is gone."""

import re
from pathlib import Path

from flask import Flask
from prometheus_client import CollectorRegistry, Metric

from keap_connect.api.metrics import FromDatabase
from keap_connect.cli.command import commands
from tests.support.engines import on_sqlite
from tests.test_command_line import every_command

TEXT = (Path(__file__).parent.parent / "docs" / "reference.md").read_text(encoding="utf-8")


def section(title: str) -> dict[str, str]:
    """Return the rows of the table below a heading: what is in backticks, and the cell after it."""
    below = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.*?) \|", below, flags=re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a name is there twice"
    return dict(rows)


def test_each_command_is_there_with_the_first_sentence_of_its_help():
    first_lines = {path: (command.help or "").strip().partition("\n\n")[0] for path, command in every_command(commands)}

    assert section("Commands") == {" ".join(path): " ".join(line.split()) for path, line in first_lines.items()}


def name_of(family: Metric) -> str:
    """Return the name under which a family is queried."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


@on_sqlite
def test_each_metric_is_there_with_its_help(app: Flask):
    registry = CollectorRegistry()
    with app.app_context():
        registry.register(FromDatabase())
        families = list(registry.collect())
        for_some_accounts = [name_of(family) for family in FromDatabase([1]).collect()]

    assert section("Metrics") == {name_of(family): family.documentation for family in families}
    first, _, _ = "\n".join(section("Metrics")).partition("\nkeap_connect_lag_seconds")
    assert first.splitlines() == for_some_accounts

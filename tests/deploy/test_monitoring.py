"""The alerts and the dashboard: right in the eyes of Prometheus, and about metrics that the app has."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry

from keap_connect.api.metrics import FromDatabase
from keap_connect.models import CLIENT_REFUSED
from keap_connect.refresh.alarms import MASS_REFUSAL, UNKNOWN_INSTANCE
from tests.support.engines import on_sqlite
from tests.support.real_server import ROOT
from tests.support.tools import find_tool

RULES = ROOT / "deploy/prometheus/keap-connect.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/keap-connect.json"
DOCUMENT = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))
SELECTOR = re.compile(r"(keap_connect_\w+)(?:\{([^}]*)\})?")
OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


def expressions() -> dict[Path, list[str]]:
    """Return what is asked of Prometheus: expressions of the dashboard, and the whole text of the rules."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return {
        DASHBOARD: [target["expr"] for panel in panels for target in panel["targets"]],
        RULES: re.findall(r"expr: (.*?)\n {8}(?=\w)", RULES.read_text(encoding="utf-8"), re.DOTALL),
    }


@on_sqlite
@pytest.mark.parametrize("file", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_each_metric_and_value_of_a_label_that_is_asked_for_exists(app: Flask, file: Path):
    registry = CollectorRegistry()
    with app.app_context():
        registry.register(FromDatabase())
        families = list(registry.collect())
    histograms = {family.name for family in families if family.type == "histogram"}  # empty until one is counted
    series = [(one.name, one.labels) for family in families for one in family.samples]
    series += [("keap_connect_alarm", {"name": name}) for name in (MASS_REFUSAL, CLIENT_REFUSED, UNKNOWN_INSTANCE)]
    asked = [found for expression in expressions()[file] for found in SELECTOR.findall(expression)]

    assert asked
    for name, selector in asked:
        of_name = [labels for known, labels in series if known == name]
        assert of_name or OF_HISTOGRAM.sub("", name) in histograms, f"there is no {name}"
        for label, values in re.findall(r'(\w+)=~?"([^"$]*)"', selector):
            missing = set(values.split("|")) - {labels[label] for labels in of_name}
            assert not missing, f"{name} has no {label} {missing}"


def test_prometheus_takes_rules_and_settings():
    promtool = find_tool("promtool")
    checks = (["check", "rules", RULES], ["check", "config", "--syntax-only", RULES.with_name("prometheus.yml")])

    for check in checks:
        ended = subprocess.run([promtool, *check], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_alert_fires_in_its_case_and_not_beside_it():
    cases = (ROOT / "tests/deploy/alerts.yml").read_text(encoding="utf-8")
    expected = re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", cases)
    assert {(name, empty) for name in ALERTS for empty in ("", " []")} == set(expected)

    command = [find_tool("promtool"), "test", "rules", "tests/deploy/alerts.yml"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_prometheus_understands_the_dashboard(tmp_path: Path):
    replaced = [one.replace("$__rate_interval", "5m") for one in expressions()[DASHBOARD]]  # $__interval can be empty
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(replaced)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    ended = subprocess.run([find_tool("promtool"), "check", "rules", path], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(rules)} rules found" in ended.stdout


def test_each_alert_has_its_chapter():
    documented = re.findall(r"^### (\w+)$", DOCUMENT, re.MULTILINE)
    links = re.findall(r"document: docs/monitoring\.md#(\w+)", RULES.read_text(encoding="utf-8"))

    assert documented == ALERTS
    assert links == [name.lower() for name in ALERTS]

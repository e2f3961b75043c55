"""The files for Prometheus and Grafana: every rule is tried, every expression is read, every figure in them exists."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT, StartServer, free_port

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
OPERATIONS = ROOT / "docs" / "operations.md"
TOKEN = "metrics-8f2c1d90ab37e6545f01c2d7e98b"
# What another program says of itself, or Prometheus of what it asks.
NOT_OURS = {"up"}
# There with BACKUP_DIR once a backup was made, on PostgreSQL, and with several workers: the tests of each show them.
SOMETIMES = {
    "duly_backup_last_size_bytes", "duly_backup_last_success_timestamp_seconds", "duly_signals_connected",
    "duly_worker_up",
}  # fmt: skip
NAME = re.compile(r"\b(?:duly_[a-z0-9_]+|process_[a-z0-9_]+|up)\b(?!\s*=)")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        skip_or_fail(f"{name} is needed: apt-get install prometheus")
    return str(found)


def run(*command: str, folder: Path = PROMETHEUS) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "duly.json").read_text(encoding="utf-8"))
    return found


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


def filled_in(expression: str) -> str:
    """As Grafana sends it, with its variables replaced."""
    return expression.replace("$__rate_interval", "5m").replace("$instance", ".*")


def names_in(expressions: list[str]) -> set[str]:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    bare = [re.sub(r'"[^"]*"', '""', expression) for expression in expressions]
    for name in recorded:
        bare = [expression.replace(name, "") for expression in bare]
    return {name for expression in bare for name in NAME.findall(expression)}


@pytest.mark.covers("A116", "E121", "D091")
def test_every_rule_fires_when_it_should_and_is_quiet_when_it_should() -> None:
    assert f"SUCCESS: {len(rules())} rules found" in run(tool("promtool"), "check", "rules", "alerts.yml")
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", "alerts_test.yml")
    cases = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    tried = [case for test in cases for case in test.get("alert_rule_test", ())]
    assert {case["alertname"] for case in tried if case["exp_alerts"]} == set(alerts())
    # Quiet twice: while the cause has not lasted yet, and when all is well.
    quiet = [case["alertname"] for case in tried if not case["exp_alerts"]]
    assert {name: quiet.count(name) for name in set(quiet)} == dict.fromkeys(alerts(), 2)
    asked = {case["expr"] for test in cases for case in test.get("promql_expr_test", ())}
    assert asked == {rule["record"] for rule in rules() if "record" in rule}


def test_every_alert_says_what_happened_and_where_to_read_on() -> None:
    for name, alert in alerts().items():
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}, name
        assert alert["labels"]["severity"] in {"page", "ticket"}, name
        assert all(text.endswith(".") for text in list(alert["annotations"].values())[:2]), name
        assert re.fullmatch(r"docs/operations\.md#[a-z-]+", alert["annotations"]["runbook"]), name


def test_the_section_that_an_alert_names_is_there() -> None:
    headings = re.findall(r"^#+ (.+)$", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    named = {alert["annotations"]["runbook"].partition("#")[2] for alert in alerts().values()}
    assert named - anchors == set()


def test_the_dashboard_is_whole_and_each_of_its_expressions_can_be_read(tmp_path: Path) -> None:
    found = dashboard()
    assert found["schemaVersion"] >= 39
    assert [panel["title"] for panel in found["panels"] if panel["type"] == "row"] == [
        "Traffic", "Latency", "Database", "Mail and audit", "Live updates", "Accounts", "Process",
    ]  # fmt: skip
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [(x, y) for panel in panels for x, y in places(panel["gridPos"])]
    assert len(set(taken)) == len(taken), "two panels lie on each other"
    assert max(x for x, _ in taken) < 24
    for panel in panels:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)
        assert panel["type"] == "row" or panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    wrapped = [
        {"record": f"dashboard:{number}", "expr": filled_in(expression)}
        for number, expression in enumerate(dashboard_expressions())
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": wrapped}]}), encoding="utf-8")
    assert f"SUCCESS: {len(wrapped)} rules found" in run(tool("promtool"), "check", "rules", str(path))


def places(box: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(box["x"], box["x"] + box["w"]):
        for y in range(box["y"], box["y"] + box["h"]):
            yield x, y


def test_grafana_finds_its_dashboard_and_its_prometheus() -> None:
    provisioning = GRAFANA / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    assert [item["type"] for item in source["datasources"]] == ["prometheus"]
    providers = yaml.safe_load((provisioning / "dashboards" / "duly.yml").read_text(encoding="utf-8"))["providers"]
    assert providers[0]["type"] == "file"
    assert providers[0]["options"]["path"].startswith("/")


def shipped_configuration(folder: Path, target: str) -> Path:
    """The shipped files with other targets, another place of the token, and less patience, for a test has none."""
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    shipped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    shipped["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    duly = shipped["scrape_configs"][0]
    assert duly["job_name"] == "duly"  # as the rules and the dashboard have it
    assert duly["static_configs"][0]["targets"]
    assert duly["authorization"]["credentials_file"].startswith("/")
    duly["static_configs"][0]["targets"] = [target]
    for job in shipped["scrape_configs"]:  # over TLS they are tried in test_deployment_processes.py
        job["scheme"] = "http"
        del job["tls_config"]
    duly["authorization"]["credentials_file"] = str(folder / "token")
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(shipped), encoding="utf-8")
    return path


@contextlib.contextmanager
def prometheus(folder: Path, configuration: Path) -> Iterator[str]:
    """A Prometheus of our own, and its address."""
    port = free_port()
    command = [
        tool("prometheus"), f"--config.file={configuration}", f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'series'}",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def ask(address: str, expression: str) -> list[dict[str, Any]]:
    """The vector that an expression gives right now."""
    with contextlib.suppress(httpx.TransportError):
        answer = httpx.get(f"{address}/api/v1/query", params={"query": expression}, trust_env=False)
        if answer.status_code == 200:
            found: list[dict[str, Any]] = answer.json()["data"]["result"]
            return found
    return []


@pytest.mark.covers("A102", "A116", "D091", "E121")
def test_what_a_running_duly_shows_is_what_the_files_ask_for_and_prometheus_takes_it(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(metrics_token=TOKEN)
    assert httpx.get(f"{server.base_url}/health").status_code == 200
    shown = httpx.get(f"{server.base_url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    known = {line.partition("{")[0].partition(" ")[0] for line in shown.splitlines() if not line.startswith("#")}
    asked = names_in([rule["expr"] for rule in rules()] + dashboard_expressions()) - NOT_OURS
    assert asked - known <= SOMETIMES
    configuration = shipped_configuration(tmp_path, server.base_url.removeprefix("http://"))
    run(tool("promtool"), "check", "config", str(configuration))
    with prometheus(tmp_path, configuration) as address:
        deadline = time.monotonic() + 20
        question = 'duly_http_requests_total{job="duly",route="/health",status="200"}'
        while not (found := ask(address, question)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert [item["value"][1] for item in found] == ["1"], (tmp_path / "prometheus.log").read_text()
        assert [item["value"][1] for item in ask(address, 'up{job="duly"}')] == ["1"]

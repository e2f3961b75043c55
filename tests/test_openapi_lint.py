"""The OpenAPI document has nothing that a linter with its recommended rules would find."""

import json
from pathlib import Path

import pytest

from tests.clients.tools import FOLDER, export_document, install, run_tool

RULES = FOLDER / "redocly.yaml"


@pytest.mark.covers("D087", "B060", "A117")
def test_the_document_has_no_error_and_no_warning(tmp_path: Path) -> None:
    document = export_document(tmp_path / "openapi.json")
    arguments = ["lint", str(document), "--config", str(RULES), "--format", "json", "--max-problems", "1000"]
    report = json.loads(run_tool(install(FOLDER), "redocly", *arguments, cwd=tmp_path, may_fail=True))
    found = [f"{fault['ruleId']}: {fault['message']} {fault['location'][0]['pointer']}" for fault in report["problems"]]
    assert found == []
    assert report["totals"] == {"errors": 0, "warnings": 0, "ignored": 0}

"""Writes docs/conformance.md: every requirement, and the tests that cite it with `@pytest.mark.covers`."""

import argparse
import ast
import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "docs" / "requirements.tsv"
REPORT = ROOT / "docs" / "conformance.md"
TESTS = ROOT / "tests"
SEPARATOR = " // "
IDS_IN_A_LINE = 20


@dataclass(frozen=True, slots=True)
class Requirement:
    """One row of the requirements. `decisions` say how Duly reads it or departs from it, and why."""

    id: str
    text: str
    decisions: tuple[str, ...]

    @property
    def source(self) -> str:
        """The letter of the document that it comes from."""
        return self.id[0]


def read_requirements(path: Path) -> list[Requirement]:
    """Read the tab-separated file, whose first line names the columns."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Requirement(row["id"], row["text"], _split(row["decisions"] or "")) for row in rows]


def _split(cell: str) -> tuple[str, ...]:
    return tuple(part for part in cell.split(SEPARATOR) if part)


def find_citations(folder: Path) -> dict[str, list[str]]:
    """Requirement id → the tests that cite it, as pytest names them, sorted."""
    citations: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        if "node_modules" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for test, ids in _cited(tree.body, path.relative_to(folder.parent).as_posix(), _module_marks(tree)):
            for cited in dict.fromkeys(ids):
                citations[cited].append(test)
    return dict(citations)


def _cited(body: Sequence[ast.stmt], prefix: str, inherited: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _cited(node.body, f"{prefix}::{node.name}", [*inherited, *_marks(node.decorator_list)])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield f"{prefix}::{node.name}", [*inherited, *_marks(node.decorator_list)]


def _module_marks(tree: ast.Module) -> list[str]:
    """Read `pytestmark = …`, which holds one mark or a list of them."""
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "pytestmark" for target in node.targets):
            found += _marks(node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value])
    return found


def _marks(expressions: Sequence[ast.expr]) -> list[str]:
    """Read the ids of each `pytest.mark.covers(…)`, also inside `parametrize`. `ValueError`: an id is no literal."""
    calls = (part for node in expressions for part in ast.walk(node) if isinstance(part, ast.Call))
    marks = (call for call in calls if ast.unparse(call.func).endswith("mark.covers"))
    return [str(ast.literal_eval(argument)) for mark in marks for argument in mark.args]


def report_lines(requirements: Sequence[Requirement], citations: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the document: the decisions, the rows without a test, and every row with its tests."""
    shown = sum(requirement.id in citations for requirement in requirements)
    yield "# Conformance"
    yield ""
    yield "Which test shows which requirement. `make docs` writes this file from `docs/requirements.tsv` and from the"
    yield '`@pytest.mark.covers("…")` of the tests; `make check` fails when it is old.'
    yield ""
    decided = sum(bool(requirement.decisions) and requirement.id not in citations for requirement in requirements)
    yield f"{shown} of {len(requirements)} requirements are cited by a test; {decided} more have a decision instead."
    yield ""
    yield from _decisions(requirements)
    yield from _without_test(requirements, citations)
    for source, rows in groupby(requirements, key=lambda requirement: requirement.source):
        yield f"## Document {source}"
        yield ""
        yield "| id | requirement | tests |"
        yield "|---|---|---|"
        for row in rows:
            tests = "<br>".join(f"`{test}`" for test in citations.get(row.id, ()))
            yield f"| {row.id} | {_cell(row.text)} | {tests} |"
        yield ""


def _decisions(requirements: Sequence[Requirement]) -> Iterator[str]:
    yield "## Decisions: where rows disagree, or a later fact beats them"
    yield ""
    yield "| rows | decision |"
    yield "|---|---|"
    by_decision: dict[str, list[str]] = defaultdict(list)
    for requirement in requirements:
        for decision in requirement.decisions:
            by_decision[decision].append(requirement.id)
    for decision, ids in by_decision.items():
        yield f"| {', '.join(ids)} | {_cell(decision)} |"
    yield ""


def _without_test(requirements: Sequence[Requirement], citations: Mapping[str, Sequence[str]]) -> Iterator[str]:
    without = [requirement for requirement in requirements if requirement.id not in citations]
    yield from _listed("Rows that a decision answers, and no test", [row.id for row in without if row.decisions])
    yield from _listed("Rows with neither", [row.id for row in without if not row.decisions])


def _listed(title: str, missing: Sequence[str]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    if not missing:
        yield from ("None.", "")
    for _, group in groupby(missing, key=lambda missed: missed[0]):
        ids = list(group)
        lines = (", ".join(ids[start : start + IDS_IN_A_LINE]) for start in range(0, len(ids), IDS_IN_A_LINE))
        yield ",\n".join(lines)
        yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Exit 1 when a test cites an unknown id, or when `--check` finds the document old or a row without an answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the document is old")
    options = parser.parse_args()
    requirements = read_requirements(REQUIREMENTS)
    citations = find_citations(TESTS)
    unknown = sorted(citations.keys() - {requirement.id for requirement in requirements})
    for cited in unknown:
        print(f"{cited}: not in {REQUIREMENTS.name}, cited by {', '.join(citations[cited])}", file=sys.stderr)
    if unknown:
        return 1
    gaps = [row for row in requirements if row.id not in citations and not row.decisions]
    for row in gaps:
        print(f"{row.id}: neither a test nor a decision: {row.text}", file=sys.stderr)
    text = "\n".join(report_lines(requirements, citations)).rstrip() + "\n"
    if not options.check:
        REPORT.write_text(text, encoding="utf-8")
    elif not REPORT.exists() or REPORT.read_text(encoding="utf-8") != text:
        print(f"docs/{REPORT.name} is old; run `make docs`", file=sys.stderr)
        return 1
    return int(bool(gaps) and options.check)


if __name__ == "__main__":
    sys.exit(main())

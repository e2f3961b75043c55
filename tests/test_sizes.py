"""Functions stop at 50 lines and files at 350 (tests at 500), so that each can be read in one go."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES = 50
FILE_LINES = {"src": 350, "scripts": 350, "bench": 350, "tests": 500}
INSTALLED = {"node_modules", ".venv", ".scratch", "__pycache__"}


def python_files() -> list[Path]:
    """List the Python files that are ours, relative to the root."""
    found = (path.relative_to(ROOT) for folder in FILE_LINES for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if INSTALLED.isdisjoint(path.parts))


def long_functions(text: str, limit: int = FUNCTION_LINES) -> Iterator[str]:
    """Yield each function of more than `limit` lines, signature and docstring counted, decorators not."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limit:
                yield f"{node.lineno} {node.name}: {lines} lines"


def test_no_function_is_longer_than_fifty_lines() -> None:
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in python_files()}
    assert [f"{path}:{found}" for path, text in texts.items() for found in long_functions(text)] == []


def test_no_file_is_longer_than_its_folder_allows() -> None:
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert [f"{path}: {count} lines" for path, count in lines.items() if count > FILE_LINES[path.parts[0]]] == []


@pytest.mark.parametrize(("body", "found"), [(49, []), (50, ["2 walk: 51 lines"])])
def test_the_measure_counts_from_def_to_the_last_line(body: int, found: list[str]) -> None:
    text = "@staticmethod\nasync def walk():\n" + "    pass\n" * body
    assert list(long_functions(text)) == found


def test_every_folder_is_measured() -> None:
    assert {path.parts[0] for path in python_files()} >= {"src", "scripts", "tests"}

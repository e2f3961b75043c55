"""Writes docs/security/asvs.md: a verdict on each requirement of OWASP ASVS 5.0.0, levels 1 and 2, from asvs.tsv."""

import argparse
import ast
import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERDICTS = ROOT / "docs" / "security" / "asvs.tsv"
REPORT = ROOT / "docs" / "security" / "asvs.md"
CITING = (ROOT / "docs" / "security.md", VERDICTS)
KINDS = ("met", "not applicable", "not met")
# The requirements of ASVS 5.0.0: for each section the levels of its numbers 1, 2, 3, …, and - for those of level 3. So
# a line that is lost or invented is found.
FRAME = """
    1.1:22 1.2:111112222 1.3:11222222222 1.4:222 1.5:12 2.1:122 2.2:112 2.3:1222 2.4:2 3.2:11 3.3:1222 3.4:112222
    3.5:11122 3.7:22 4.1:122 4.2:2 4.3:22 4.4:1222 5.1:2 5.2:112 5.3:11 5.4:222 6.1:122 6.2:111111112222 6.3:1122
    6.4:1122 6.5:22222 6.6:222 6.8:2222 7.1:222 7.2:1111 7.3:22 7.4:11222 7.5:22 7.6:22 8.1:12 8.2:112 8.3:1 8.4:2
    9.1:111 9.2:1222 10.1:22 10.2:22 10.3:2222 10.4:11111222222 10.5:22222 10.6:22 10.7:222 11.1:22 11.2:222
    11.3:112 11.4:1222 11.5:2 11.6:2 12.1:122 12.2:11 12.3:2222 13.1:2 13.2:22222 13.3:22 13.4:12222 14.1:22
    14.2:1222 14.3:122 15.1:122 15.2:122 15.3:1222222 16.1:2 16.2:22222 16.3:2222 16.4:222 16.5:222 17.1:2 17.2:2222
    17.3:22
"""
CHAPTERS = {
    1: "Encoding and sanitization", 2: "Validation and business logic", 3: "Web frontend security",
    4: "API and web service", 5: "File handling", 6: "Authentication", 7: "Session management", 8: "Authorization",
    9: "Self-contained tokens", 10: "OAuth and OIDC", 11: "Cryptography", 12: "Secure communication",
    13: "Configuration", 14: "Data protection", 15: "Secure coding and architecture", 16: "Logging and error handling",
    17: "WebRTC",
}  # fmt: skip

_TEST = re.compile(r"\btests/[\w./-]+\.py(?:::\w+)+")
_FILE = re.compile(
    r"\b(?:src|docs|deploy|scripts|tests|bench)/[\w./@-]*\w\.(?:py|md|tsv|toml|js|yml|yaml|conf|template|json)\b(?!::)"
)
_TEST_FILE = re.compile(r"(?<![\w/])test_\w+\.py\b")
_SECTION = re.compile(r"\b(docs/[\w/-]+\.md)#([\w-]+)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row. `subject` is ours; the requirement's own text is in the standard."""

    id: str
    level: str
    subject: str
    verdict: str
    evidence: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """Chapter, section and number."""
        return tuple(int(part) for part in self.id.removeprefix("V").split("."))


def read_verdicts(path: Path) -> list[Verdict]:
    """Read the tab-separated file, whose first line names the columns."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = ("id", "level", "subject", "verdict", "evidence")
        return [Verdict(*(row[name] or "" for name in names)) for row in rows]


def framed() -> Iterator[tuple[str, str]]:
    """Id and level of each requirement of levels 1 and 2, in the standard's order."""
    for section, levels in (part.split(":") for part in FRAME.split()):
        yield from ((f"V{section}.{number}", level) for number, level in enumerate(levels, 1) if level != "-")


def row_faults(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Ids that are double, missing or too many, and rows that say too little."""
    for found, times in Counter(row.id for row in verdicts).items():
        if times > 1:
            yield f"{found}: is there {times} times"
    frame = dict(framed())
    yield from (f"{missing}: is missing" for missing in frame.keys() - {row.id for row in verdicts})
    for row in verdicts:
        if frame.get(row.id) != row.level:
            yield f"{row.id}: is no requirement of level {row.level}"
        if row.verdict not in KINDS:
            yield f"{row.id}: the verdict is one of {', '.join(KINDS)}"
        if not row.subject or not row.evidence or len(row.subject.split()) > 10:
            yield f"{row.id}: needs a subject of at most ten words, and evidence"
        if row.verdict == "met" and not (_TEST.search(row.evidence) or _FILE.search(row.evidence)):
            yield f"{row.id}: is met, but no test, file or section is named"


def citation_faults(text: str, where: str, root: Path) -> Iterator[str]:
    """Tests, files and sections that a text names and that do not exist."""
    for test in dict.fromkeys(_TEST.findall(text)):
        path, _, name = test.partition("::")
        if name not in _tests_in(root / path):
            yield f"{where}: {test} does not exist"
    for path in dict.fromkeys([*_FILE.findall(text), *(f"tests/{name}" for name in _TEST_FILE.findall(text))]):
        if not (root / path).is_file():
            yield f"{where}: {path} does not exist"
    for path, section in dict.fromkeys(_SECTION.findall(text)):
        if (root / path).is_file() and section not in _sections_of(root / path):
            yield f"{where}: {path} has no section #{section}"


@cache
def _tests_in(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    return frozenset("::".join(names) for names in _named(ast.parse(path.read_text(encoding="utf-8")).body))


def _named(body: Sequence[ast.stmt]) -> Iterator[list[str]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from ([node.name, *names] for names in _named(node.body))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield [node.name]


def _sections_of(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def report_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield the document: the counts, what is not met, and every row."""
    yield "# OWASP ASVS 5.0.0, levels 1 and 2"
    yield ""
    yield "A verdict on each requirement. `make docs` writes this file from `docs/security/asvs.tsv`; `make check`"
    yield "fails when it is old, when a row is missing, and when a test or file that it names does not exist. The"
    yield "subjects are short names of our own: the texts are in the [standard](https://github.com/OWASP/ASVS/tree/v5.0.0/5.0)."
    yield ""
    yield "| level | " + " | ".join(KINDS) + " | all |"
    yield "|---|---|---|---|---|"
    for level in ("1", "2"):
        rows = [row for row in verdicts if row.level == level]
        yield f"| {level} | " + " | ".join(str(count) for count in _counts(rows)) + f" | {len(rows)} |"
    yield "| both | " + " | ".join(str(count) for count in _counts(verdicts)) + f" | {len(verdicts)} |"
    yield ""
    yield "## Not met"
    yield ""
    missing = [row for row in verdicts if row.verdict == "not met"]
    for row in missing:
        yield f"- **{row.id}** {row.subject}: {_linked(row.evidence)}"
    if not missing:
        yield "Nothing."
    yield ""
    for chapter, of_chapter in groupby(verdicts, key=lambda row: row.numbers[0]):
        yield f"## V{chapter} {CHAPTERS[chapter]}"
        yield ""
        yield "| id | level | subject | verdict | evidence |"
        yield "|---|---|---|---|---|"
        for row in of_chapter:
            yield f"| {row.id} | {row.level} | {row.subject} | {row.verdict} | {_linked(row.evidence)} |"
        yield ""


def _counts(rows: Sequence[Verdict]) -> list[int]:
    return [sum(row.verdict == kind for row in rows) for kind in KINDS]


def _linked(evidence: str) -> str:
    text = evidence.replace("|", "\\|")
    text = _TEST.sub(lambda found: f"`{found[0]}`", text)
    return _SECTION.sub(lambda found: f"[{found[2]}](../{found[1].removeprefix('docs/')}#{found[2]})", text)


def main() -> int:
    """Exit 1 when the rows or what they cite are at fault, or when `--check` finds the document old."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the document is old")
    options = parser.parse_args()
    verdicts = read_verdicts(VERDICTS)
    faults = [*row_faults(verdicts)]
    for path in CITING:
        faults += citation_faults(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix(), ROOT)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        return 1
    text = "\n".join(report_lines(verdicts)).rstrip() + "\n"
    if not options.check:
        REPORT.write_text(text, encoding="utf-8")
    elif not REPORT.exists() or REPORT.read_text(encoding="utf-8") != text:
        print(f"docs/security/{REPORT.name} is old; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

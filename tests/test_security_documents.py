"""The security documents say what is so: their checks find what is wrong, and the tables are whole."""

import re
import secrets
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import check_floors, scan_secrets, security
from tests.fixtures.application import StartApp
from tests.test_users import code

ROOT = Path(__file__).resolve().parent.parent
HANDBOOK = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
LETTERS = string.ascii_letters + string.digits


def run(script: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def table_below(title: str, document: str = HANDBOOK) -> list[list[str]]:
    """The cells of the rows of the first table in a section."""
    section = document.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip(" |") for cell in row] for row in rows[2:]]


def random_text(length: int, alphabet: str = LETTERS) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


# --- Secrets ----------------------------------------------------------------------------------------------------------
PLANTED = {
    "a key of AWS": lambda: f'KEY = "{"AKIA"}{random_text(16, string.ascii_uppercase + "234567")}"',
    "a token of GitHub": lambda: f"token: ghp_{random_text(36)}",
    "a private key": lambda: "-----BEGIN RSA PRIVATE" + f" KEY-----\n{random_text(64)}",
    "an address with a password": lambda: f"URL=postgresql://duly:{random_text(20)}@db.internal.example:5432/duly",
    "a setting": lambda: f"SECRET_KEY = '{random_text(48)}'",
}


@pytest.mark.covers("E108")
@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_is_found_and_not_repeated(kind: str, tmp_path: Path) -> None:
    planted = tmp_path / "settings_of_mine.py"
    planted.write_text(PLANTED[kind]() + "\n", encoding="utf-8")
    found = run(ROOT / "scripts/scan_secrets.py", planted)
    assert found.returncode == 1
    assert f"{planted}:1: looks like a secret" in found.stderr
    held = re.findall(r"[A-Za-z0-9]{16,}", planted.read_text(encoding="utf-8"))
    assert held
    assert not any(text in found.stderr + found.stdout for text in held)


@pytest.mark.covers("E108")
def test_what_was_accepted_is_passed_over_and_nothing_else_of_the_file(tmp_path: Path) -> None:
    accepted = run(ROOT / "scripts/scan_secrets.py", ".env.example", "src/duly/settings/values.py")
    assert (accepted.returncode, accepted.stderr) == (0, "")
    names = set(scan_secrets.list_files(ROOT))
    assert {"src/duly/settings/values.py", ".env.example", "deploy/compose.yaml", "tests/test_security.py"} <= names
    assert not [name for name in names if name.endswith(".lock") or "node_modules" in name]
    # The baseline names kinds and hashes alone: no value, no line, no time that would change it for nothing.
    rows = scan_secrets.read_baseline(scan_secrets.BASELINE)
    text = scan_secrets.baseline_text((name, 7, kind, hashed) for name, kind, hashed in rows)
    assert text == scan_secrets.BASELINE.read_text(encoding="utf-8")
    assert all(re.fullmatch("[0-9a-f]{40}", hashed) for _, _, hashed in rows)


# --- Floors -----------------------------------------------------------------------------------------------------------
def test_the_packages_are_at_their_floors_or_newer() -> None:
    checked = run(ROOT / "scripts/check_floors.py")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_older_package_is_named_wherever_it_is() -> None:
    floors = check_floors.FLOORS
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not [*check_floors.declared_faults(pyproject, floors)]
    assert not [*check_floors.locked_faults("x.lock", lock, floors)]
    for old in ('"starlette>=1.3"', '"starlette"', '"starlette<2"'):
        [fault] = check_floors.declared_faults(pyproject.replace('"starlette>=1.3.1"', old), floors)
        assert "starlette>=1.3.1" in fault
    for old in ("h11==0.14.0 ", "h1x==0.16.0 "):
        [fault] = check_floors.locked_faults("x.lock", re.sub(r"(?m)^h11==\S+ ", old, lock), floors)
        assert fault.startswith("x.lock: h11 is ")
    faults = [*check_floors.installed_faults({"h11": "99", "no-such-package": "1"}, "3.40.1", "3.51.3")]
    assert [fault.split()[1] for fault in faults] == ["h11", "no-such-package", "apsw"]


# --- The verdicts -----------------------------------------------------------------------------------------------------
@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A house of its own with the script and the documents; everything else is this one's."""
    for name in ("src", "tests", "deploy", "bench"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("scripts", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def check(house: Path) -> tuple[int, str]:
    ended = run(house / "scripts/security.py", "--check")
    return ended.returncode, ended.stderr


@pytest.mark.covers("D098")
def test_every_requirement_has_a_verdict_whose_evidence_is_there(house: Path) -> None:
    assert check(house) == (0, "")
    verdicts = security.read_verdicts(security.VERDICTS)
    assert len(verdicts) == len(dict(security.framed())) == 253
    assert sum(row.level == "1" for row in verdicts) == 70
    report = security.REPORT.read_text(encoding="utf-8")
    assert all(f"| {row.id} | {row.level} | {row.subject} | {row.verdict} |" in report for row in verdicts)


def alterations(lines: list[str]) -> Iterator[tuple[str, list[str], str]]:
    first, second = lines[1], lines[2]
    test = next(line for line in lines if line.startswith("V9.1.1\t"))
    document = next(line for line in lines if "docs/security.md#limits" in line)

    def changed(line: str, old: str, new: str) -> list[str]:
        return [found.replace(old, new) if found == line else found for found in lines]

    unproven = changed(test, test.rpartition("\t")[2], "surely")
    gone = changed(test, "test_no_changed_character_passes", "test_no_such_thing")
    yield "a lost row", [line for line in lines if line != second], "V1.1.2: is missing"
    yield "a row twice", [*lines, first], "V1.1.1: is there 2 times"
    yield "an invented row", [*lines, first.replace("V1.1.1\t", "V1.1.9\t")], "V1.1.9: is no requirement"
    yield "another level", changed(first, "\t2\t", "\t1\t"), "V1.1.1: is no requirement of level 1"
    yield "a word that is no verdict", changed(first, "\tmet\t", "\tfine\t"), "V1.1.1: the verdict is one of"
    yield "no evidence", unproven, "V9.1.1: is met, but no test"
    yield "a test that is gone", gone, "::test_no_such_thing does not exist"
    yield "a section that is gone", changed(document, "#limits", "#limitless"), "has no section #limitless"


@pytest.mark.covers("D098")
def test_rows_that_are_wrong_and_a_document_that_is_old_are_found(house: Path) -> None:
    table = house / "docs/security/asvs.tsv"
    before = table.read_text(encoding="utf-8")
    for what, lines, said in alterations(before.splitlines()):
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
        status, errors = check(house)
        assert (status, said in errors) == (1, True), (what, errors)
    table.write_text(before.replace("No TRACE", "TRACE is refused"), encoding="utf-8")
    assert check(house) == (1, "docs/security/asvs.md is old; run `make docs`\n")
    table.write_text(before, encoding="utf-8")
    handbook = house / "docs/security.md"
    handbook.write_text(HANDBOOK.replace("`test_forgeries.py`", "`test_forgotten.py`", 1), encoding="utf-8")
    assert check(house) == (1, "docs/security.md: tests/test_forgotten.py does not exist\n")


# --- The handbook -----------------------------------------------------------------------------------------------------
@pytest.mark.covers("A142")
def test_each_threat_has_a_measure_and_a_test() -> None:
    rows = table_below("Threats")
    assert {row[0] for row in rows} == set("STRIDE")
    assert all(len(row) == 4 and row[2] and re.search(r"`(test_\w+\.py|bench/timing\.py)`", row[3]) for row in rows)


@pytest.mark.covers("D098")
def test_each_of_the_ten_risks_has_a_verdict_and_tests() -> None:
    rows = table_below("OWASP API Security Top 10 (2023)")
    assert [row[0].split()[0] for row in rows] == [f"API{number}" for number in range(1, 11)]
    assert all(row[1] and "`test_" in row[2] for row in rows)


@pytest.mark.covers("D098")
def test_bandit_has_nothing_to_say() -> None:
    bandit = Path(sys.executable).with_name("bandit")
    command = [bandit, "-q", "-c", "pyproject.toml", "-r", "src"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout[-2000:]


@pytest.mark.covers("B082")
def test_each_attempt_at_breaking_in_names_its_tool_and_its_result() -> None:
    section = HANDBOOK.partition("\n## Penetration testing\n")[2].partition("\n## ")[0]
    assert re.search(r"As of 20\d\d-\d\d-\d\d", section)
    rows = table_below("Penetration testing")
    assert len(rows) >= 15
    assert all(len(row) == 3 and all(row) for row in rows)
    assert all("`" in row[1] or "make check" in row[1] for row in rows)


@pytest.mark.covers("D099")
def test_each_line_of_readiness_has_its_evidence() -> None:
    rows = table_below("Ready for production")
    assert [row[0] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
    assert len(rows) >= 18
    assert all(row[1] and re.search(r"`(test_\w+\.py|make \w+)`|\]\([\w#.-]+\)", row[2]) for row in rows)


@pytest.mark.covers("D089")
def test_each_line_of_hardening_has_what_shows_it() -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    checklist = table_below("Security checklist", guide)
    assert len(checklist) >= 15
    rows = [*checklist, *table_below("Hardening")]
    assert len(rows) >= 25
    assert all(len(row) == 2 and row[0] and ("`" in row[1] or "warning" in row[1]) for row in rows)


# --- What the verdicts rest on, and no other test shows ---------------------------------------------------------------
async def test_a_password_made_of_the_service_s_own_words_is_refused(start_app: StartApp) -> None:
    api = await start_app()
    body = {"email": "ann@example.com"}
    for password in ("duly-tasks", "Duly-Tasks-1", "TODO.admin.42", "administrator", "tasks tasks tasks"):
        answer = await api.client.post("/api/v1/auth/register", json={**body, "password": password})
        assert code(answer) == (422, "WEAK_PASSWORD"), password
        assert answer.json()["errors"][0]["type"] == "password_is_context", password
    for number, password in enumerate(("duly-orange-submarine", "admin 7493 8205 1 66 9021")):
        good = {"email": f"ann{number}@example.com", "password": password}
        assert (await api.client.post("/api/v1/auth/register", json=good)).status_code == 201, password


def test_no_script_of_ours_keeps_anything_in_the_browser() -> None:
    scripts = [*(ROOT / "src/duly/web/assets").glob("*.js")]
    assert len(scripts) >= 4
    kept = re.compile(r"localStorage|sessionStorage|indexedDB|document\.cookie|persistAuthorization: true|\bcaches\b")
    assert not [path.name for path in scripts if kept.search(path.read_text(encoding="utf-8"))]

"""The environment template and the README's table name exactly the settings that the program has."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from duly.settings import Settings, SettingsFault, load_settings
from scripts.settings_table import described, replace_table, setting_names

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / ".env.example"
ASSIGNMENT = re.compile(r"(?P<example># )?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)")
SECRETS = ("SECRET_KEY", "BETTER_AUTH_SECRET", "FIELD_ENCRYPTION_KEY", "ADMIN_REGISTRATION_TOKEN", "METRICS_TOKEN")


def assignments() -> list[re.Match[str]]:
    """Read every assignment of the template, the examples behind `# ` too."""
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    return [found for line in lines if (found := ASSIGNMENT.fullmatch(line))]


def comments_above() -> dict[str, str]:
    """Setting → the sentences above its first assignment."""
    found: dict[str, str] = {}
    sentences: list[str] = []
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if assignment := ASSIGNMENT.fullmatch(line):
            found.setdefault(assignment["name"], " ".join(sentences))
        sentences = [*sentences, line.removeprefix("# ")] if line.startswith("#") and not assignment else []
    return found


@pytest.fixture
def bare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, in an environment that sets nothing of ours."""
    known = {name for name, aliases in setting_names().items() for name in (name, *aliases)}
    for name in os.environ:
        if name.upper().removesuffix("_FILE") in known or name.upper().startswith("DULY_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.covers("A114", "B006", "C012", "E040")
def test_the_template_names_every_setting_and_nothing_else() -> None:
    known = {name for name, aliases in setting_names().items() for name in (name, *aliases)}
    named = {assignment["name"] for assignment in assignments()}
    assert sorted(known - named) == [], "settings that .env.example lacks"
    assert sorted(named - known) == [], "names in .env.example that are no settings"


@pytest.mark.covers("A114")
def test_each_setting_stands_below_its_own_description() -> None:
    above = comments_above()
    wrong = {
        name: described(field)
        for name, field in Settings.model_fields.items()
        if above[name.upper()] != described(field)
    }
    assert wrong == {}


@pytest.mark.covers("A003")
@pytest.mark.usefixtures("bare_folder")
def test_the_values_of_the_template_are_the_defaults() -> None:
    copied = Settings(_env_file=EXAMPLE)  # type: ignore[call-arg]
    assert copied == Settings(_env_file=None)  # type: ignore[call-arg]


@pytest.mark.covers("A003")
def test_an_unchanged_copy_starts_in_development(bare_folder: Path) -> None:
    shutil.copy(EXAMPLE, bare_folder / ".env")
    assert load_settings().environment == "development"


@pytest.mark.covers("A111", "C012")
@pytest.mark.parametrize("environment", ["staging", "production"])
def test_production_refuses_the_example_secrets(bare_folder: Path, environment: str) -> None:
    lines = [f"{found['name']}={found['value']}" for found in assignments() if found["name"] in SECRETS]
    lines += [f"ENVIRONMENT={environment}", "PUBLIC_URL=https://tasks.test"]
    (bare_folder / ".env").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SettingsFault) as caught:
        load_settings()
    assert sorted(fault.partition(":")[0] for fault in caught.value.faults) == sorted(SECRETS)


@pytest.mark.covers("A114")
def test_the_table_in_the_readme_is_current() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert replace_table(text) == text, "the table of settings is old: run `make docs`"


@pytest.mark.covers("A004", "C013")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git clone")
def test_git_ignores_secrets_and_leftovers_but_not_the_template() -> None:
    paths = [".env", ".env.production", ".venv", "__pycache__", "data", ".env.example"]
    command = ["git", "check-ignore", "--no-index", *paths]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert ignored == paths[:-1]

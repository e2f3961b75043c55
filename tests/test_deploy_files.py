"""Every file of deploy/, the image and the workflow: checked by the tool made for it, and against the settings."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from dotenv import dotenv_values

from duly import __version__
from duly.settings import Settings
from scripts.settings_table import setting_names
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT

BIN = Path(sys.executable).parent
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
KNOWN = {one for name, aliases in setting_names().items() for one in (name, *aliases)}
UNITS = ("duly@8001.service", "duly-worker.service", "duly-migrate.service", "duly-backup.service", "duly-backup.timer")


# What deploy/scripts/internal-certificates makes a certificate for.
INSIDE = ("postgres", "redis", "duly", "nginx", "prometheus", "grafana")


def passes(*command: str | Path, **options: Any) -> str:
    """A tool that has to be content; what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def faults(schema: str, document: dict[str, Any]) -> Iterator[str]:
    """What a schema that check-jsonschema ships has against a document; its program takes seconds to start."""
    path = files("check_jsonschema").joinpath("builtin_schemas", "vendor", f"{schema}.json")
    rules = json.loads(path.read_text(encoding="utf-8"))
    yield from (fault.message for fault in jsonschema.validators.validator_for(rules)(rules).iter_errors(document))


def services(path: Path) -> dict[str, dict[str, Any]]:
    return read_yaml(path)["services"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, joined over their lines."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    joined = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.strip().partition(" ") for line in joined if line.strip())]


def final_stage() -> list[tuple[str, str]]:
    """The instructions from the last FROM on."""
    found = instructions()
    return found[max(index for index, (word, _) in enumerate(found) if word == "FROM") :]


@pytest.mark.covers("A105", "B074")
def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    assert passes(BIN / "hadolint", "--failure-threshold", "style", ROOT / "Dockerfile").strip() == ""


@pytest.mark.covers("A107", "D002")
def test_the_image_is_made_in_stages_and_what_ships_has_no_tools_and_no_root() -> None:
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert len(stages) == 4
    assert re.fullmatch(r"python:3\.13-slim-[a-z]+", dict(instructions())["ARG"].partition("=")[2])
    final = final_stage()
    runs = " ".join(rest for word, rest in final if word == "RUN")
    assert "pip uninstall" in runs
    assert "apt-get" not in runs
    assert [rest for word, rest in final if word == "COPY"] == ["--from=environment /opt/duly /opt/duly"]
    assert ("USER", "10001:10001") in final
    assert ("STOPSIGNAL", "SIGTERM") in final
    for word in ("ENTRYPOINT", "CMD"):
        assert all(isinstance(json.loads(rest), list) for found, rest in final if found == word)
    assert f'image.version="{__version__}"' in " ".join(rest for word, rest in final if word == "LABEL")
    names = re.findall(r"([A-Z_]+)=", " ".join(rest for word, rest in final if word == "ENV"))
    assert set(names) - KNOWN == {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def test_the_builder_takes_nothing_that_is_not_pinned_with_its_hash() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    fetching = [
        command for run in runs for command in run.split("&&") if "-m pip" in command and " install " in command
    ]
    assert len(fetching) == 3
    for command in fetching:
        if "--no-index" not in command:
            assert "--require-hashes" in command
            assert "--only-binary :all:" in command, "an image without a compiler takes wheels alone"
            assert all((ROOT / name).is_file() for name in re.findall(r"-r (\S+)", command))


@pytest.mark.covers("A108", "D007")
def test_image_and_compose_files_ask_for_health_without_curl() -> None:
    check = dict(final_stage())["HEALTHCHECK"]
    assert json.loads(check.partition("CMD ")[2]) == ["python", "-m", "duly.cli.checking"]
    for path in (ROOT / "compose.yaml", COMPOSE):
        for name, service in services(path).items():
            asked = service["healthcheck"]
            assert asked.get("test") or (name == "migrate" and asked == {"disable": True}), name
            assert "curl" not in str(asked)


@pytest.mark.covers("D001")
def test_the_builder_is_sent_what_it_copies_and_neither_secrets_nor_leftovers() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[0] == "*", "everything is left out that is not named"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    left_out = {line for line in lines[1:] if not line.startswith("!")}
    copied = {
        word.removeprefix("./")
        for kind, rest in instructions()
        if kind == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    }
    assert let_in == copied
    assert {".git", ".env", ".venv", "**/__pycache__"} <= left_out
    assert not any(fnmatch(name, pattern) for name in let_in for pattern in left_out)


@pytest.mark.covers("A106", "B075")
def test_the_compose_files_fit_the_specification() -> None:
    assert [
        *faults("compose-spec", read_yaml(ROOT / "compose.yaml")),
        *faults("compose-spec", read_yaml(COMPOSE)),
    ] == []
    assert list(faults("compose-spec", {"services": {"duly": {"imag": "duly"}}})) != []


@pytest.mark.parametrize("path", ["compose.yaml", "deploy/compose.yaml"])
def test_a_compose_file_names_only_what_there_is_and_pins_its_images(path: str) -> None:
    file = ROOT / path
    document = read_yaml(file)
    for name, service in document["services"].items():
        image = service["image"]
        assert re.search(r":(\$\{|[0-9v]|development$)", image), f"{name}: {image} is not pinned"
        for dependency in service.get("depends_on", {}):
            assert dependency in document["services"]
        for network in service.get("networks", []):
            assert network in document["networks"]
        for secret in service.get("secrets", []):
            assert (secret["source"] if isinstance(secret, dict) else secret) in document["secrets"]
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            # By deploy/scripts/certificates, and by internal-certificates.
            made = {"./certificates", *(f"./tls/{one}" for one in INSIDE)}
            exists = (file.parent / source).exists() if source.startswith(".") else source in document["volumes"]
            assert source in made or exists, f"{name}: {source}"


def test_every_variable_in_a_compose_file_is_a_setting() -> None:
    ours = [("deploy/compose.yaml", name) for name in ("migrate", "duly-1", "duly-2", "worker")]
    for path, name in [("compose.yaml", "duly"), *ours]:
        given = set(services(ROOT / path)[name]["environment"])
        assert {one.removesuffix("_FILE") for one in given} - KNOWN <= {"PYTHONPATH"}, (path, name)


def test_the_versions_agree() -> None:
    assert f"${{VERSION:-{__version__}}}" in COMPOSE.read_text(encoding="utf-8")
    assert dotenv_values(DEPLOY / "env" / "compose.env")["VERSION"] == __version__
    chart = read_yaml(DEPLOY / "helm" / "duly" / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@pytest.mark.covers("D014")
def test_the_database_of_both_compose_files_is_postgresql_15() -> None:
    images = {services(path)["postgres"]["image"] for path in (ROOT / "compose.yaml", COMPOSE)}
    assert [re.fullmatch(r"postgres:15\.\d+", image) is not None for image in images] == [True]


def test_in_production_only_nginx_is_published_and_nobody_may_more_than_needed() -> None:
    document = read_yaml(COMPOSE)
    for name, service in document["services"].items():
        ports = service.get("ports", [])
        assert name == "nginx" or all(port.startswith("127.0.0.1:") for port in ports), name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith(("0", "root"))
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}
        named = [key for key in service.get("environment", {}) if re.search("(PASSWORD|KEY|TOKEN|SECRET|_URL)$", key)]
        paths = {"EDGE_CERTIFICATE_KEY", "TLS_PRIVATE_KEY", "GF_SERVER_CERT_KEY"}
        assert set(named) <= {"PUBLIC_URL", "EDGE_PUBLIC_URL"} | paths, f"{name}: a secret is a file"
        assert all(service["environment"][one].startswith("/") for one in paths & set(named))
    assert document["networks"]["back"] == {"internal": True}
    assert {name for name, one in document["services"].items() if "front" not in one["networks"]} == {
        "migrate", "postgres", "redis", "prometheus", "grafana",
    }  # fmt: skip


def test_servers_wait_for_the_migration_and_trust_the_address_that_nginx_has() -> None:
    found = services(COMPOSE)
    for name in ("duly-1", "duly-2", "worker"):
        assert found[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert found[name]["environment"]["AUTO_MIGRATE"] == "false"
        assert found[name]["environment"]["TRUSTED_PROXIES"] == found["nginx"]["networks"]["front"]["ipv4_address"]
    upstreams = re.findall(r"server (\S+):(\d+)", found["nginx"]["environment"]["EDGE_UPSTREAMS"])
    assert upstreams == [(name, found[name]["environment"]["PORT"]) for name in ("duly-1", "duly-2")]
    template = "".join(path.read_text(encoding="utf-8") for path in (DEPLOY / "nginx" / "templates").iterdir())
    wanted = set(re.findall(r"\$\{(EDGE_[A-Z_]+)\}", template))
    assert wanted <= set(found["nginx"]["environment"]), "nginx's template has no defaults"


def test_prometheus_of_the_compose_file_finds_its_token_and_both_servers() -> None:
    service = services(COMPOSE)["prometheus"]
    jobs = {one["job_name"]: one for one in read_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]}
    assert jobs["duly"]["authorization"]["credentials_file"] in [one["target"] for one in service["secrets"]]
    targets = {target for group in jobs["duly"]["static_configs"] for target in group["targets"]}
    assert {"duly-1:8000", "duly-2:8000"} <= targets


def test_every_service_speaks_tls_with_a_certificate_of_its_own_and_no_password() -> None:
    document = read_yaml(COMPOSE)
    found = document["services"]
    ours = ("migrate", "duly-1", "duly-2", "worker")
    shown = {name: [one for one in service["volumes"] if one.endswith(":/run/tls:ro")] for name, service in
             found.items()}  # fmt: skip
    assert shown == {name: [f"./tls/{'duly' if name in ours else name}:/run/tls:ro"] for name in found}
    assert set(INSIDE) == {"duly", *found} - set(ours)
    for name in ("duly-1", "duly-2"):
        assert found[name]["environment"]["TLS_CLIENT_CA"] == "/run/tls/ca.crt"
    assert found["nginx"]["environment"]["EDGE_UPSTREAM_SCHEME"] == "https"
    jobs = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert [(job["scheme"], "insecure_skip_verify" in job["tls_config"]) for job in jobs] == [("https", False)] * 2
    [source] = read_yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert (source["url"], source["jsonData"]["tlsAuth"]) == ("https://prometheus:9090", True)
    rules = [line.split() for line in lines_of(DEPLOY / "postgres" / "pg_hba.conf")]
    assert rules == [["local", "all", "postgres", "peer"], ["hostssl", "duly", "duly", "all", "cert"]]
    assert {"port 0", "tls-auth-clients yes"} <= set(lines_of(DEPLOY / "redis" / "redis.conf"))
    # The stores are reached by Duly alone, and each by its name.
    data = {name for name, service in found.items() if "data" in service["networks"]}
    assert data == {*ours, "postgres", "redis"}
    assert found["postgres"]["networks"] == found["redis"]["networks"] == ["data"]
    assert document["networks"]["data"] == {"internal": True}
    assert [name for name, service in found.items() if "postgres_password" in service.get("secrets", [])] == [
        "postgres"
    ]


def lines_of(path: Path) -> list[str]:
    """Without comments and blank lines."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]


def expand(text: str, values: dict[str, str]) -> Iterator[str]:
    """The variables that a compose file asks for and that nobody gives."""
    for name, default in re.findall(r"\$\{([A-Z_]+)(:?[-?][^}]*)?\}", text):
        if name not in values and not default.startswith((":-", "-")):
            yield name


def test_the_templates_fill_in_what_the_compose_file_asks_for() -> None:
    given = dotenv_values(DEPLOY / "env" / "compose.env")
    assert list(expand(COMPOSE.read_text(encoding="utf-8"), given)) == []
    asked = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text(encoding="utf-8")))
    assert set(given) == asked, "a name in compose.env that nobody reads"


# --- Environments ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("A112", "D005")
def test_each_environment_has_a_template_with_a_database_of_its_own() -> None:
    found = {name: dotenv_values(DEPLOY / "env" / f"{name}.env") for name in ("development", "staging", "production")}
    assert {name: values["ENVIRONMENT"] for name, values in found.items()} == {name: name for name in found}
    databases = [values.get("DATABASE_URL_FILE") or values["DATA_DIR"] for values in found.values()]
    assert len(set(databases)) == 3
    for name, values in found.items():
        assert {one.removesuffix("_FILE") for one in values} <= KNOWN, name
        secret = [one for one in values if Settings.model_fields.get(one.lower()) and "SecretStr" in
                  str(Settings.model_fields[one.lower()].annotation) and values[one]]  # fmt: skip
        assert secret == [], "a template holds no secret"


def test_git_and_the_image_builder_leave_deployments_out() -> None:
    paths = ["deploy/.env", "deploy/production.env", "deploy/secrets/secret_key", "deploy/certificates/privkey.pem"]
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git clone")
    asked = ["git", "check-ignore", "--no-index", *paths, "deploy/env/production.env"]
    assert subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split() == paths


# --- Scripts ---------------------------------------------------------------------------------------------------------


@pytest.mark.covers("A113", "B079")
def test_shellcheck_has_nothing_to_say_about_the_deployment_scripts() -> None:
    passes(
        BIN / "shellcheck",
        *(DEPLOY / "scripts" / name for name in ("make-secrets", "upgrade")),
    )


@pytest.mark.covers("A113", "B079")
def test_the_scripts_say_what_they_would_do_and_do_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    said = passes(DEPLOY / "scripts" / "make-secrets", "--dry-run", folder)
    assert said.count("would make") == 7
    assert not folder.exists()
    said = passes(DEPLOY / "scripts" / "upgrade", "--dry-run", env={"PATH": os.environ["PATH"], "VERSION": "9.9.9"})
    steps = [
        "config --quiet", "build", "exec -T worker duly backup", "run --rm --no-deps migrate", "120 duly-1",
        "120 duly-2",
    ]  # fmt: skip
    order = [said.index(step) for step in steps]
    assert order == sorted(order)
    done = subprocess.run([DEPLOY / "scripts" / "upgrade"], capture_output=True, text=True, check=False,
                          env={"PATH": os.environ["PATH"]})  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_secrets_are_made_once_and_belong_together(tmp_path: Path) -> None:
    for _ in range(2):
        passes(DEPLOY / "scripts" / "make-secrets", tmp_path / "a")
    passes(DEPLOY / "scripts" / "make-secrets", tmp_path / "b")
    first, second = ({one.name: one.read_text().strip() for one in (tmp_path / name).iterdir()} for name in "ab")
    assert set(first) == {Path(one["file"]).name for one in read_yaml(COMPOSE)["secrets"].values()}
    assert all(first[name] != second[name] for name in first.keys() - {"database_url", "redis_url"})
    for name in ("database_url", "redis_url"):
        assert "/run/tls/tls.key" in first[name], "Duly signs in with its certificate"
        assert first["postgres_password"] not in first[name], "the superuser's is nobody's business"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


# --- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unit_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with our units, the system's targets, and programs where the units look for them."""
    if shutil.which("systemd-analyze") is None:
        skip_or_fail("systemd-analyze is needed: apt-get install systemd")
    root = tmp_path_factory.mktemp("root")
    units = root / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for path in [*(DEPLOY / "systemd").glob("*.service"), *(DEPLOY / "systemd").glob("*.timer")]:
        shutil.copy(path, units)
    (root / "lib" / "systemd" / "system").mkdir(parents=True)
    for path in Path("/lib/systemd/system").glob("*.target"):
        shutil.copy(path, root / "lib" / "systemd" / "system", follow_symlinks=False)
    for name in ("opt/duly/bin/duly", "bin/sh", "usr/bin/find"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("#!/bin/sh\n")
        (root / name).chmod(0o755)
    return root


def test_systemd_takes_the_units_without_a_word(unit_root: Path) -> None:
    assert passes("systemd-analyze", "verify", f"--root={unit_root}", *UNITS).strip() == ""


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.endswith(".service")])
def test_systemd_finds_little_that_a_unit_could_do_beyond_its_task(unit_root: Path, unit: str) -> None:
    said = passes("systemd-analyze", "security", "--offline=true", "--threshold=20", f"--root={unit_root}", unit)
    assert float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1]) <= 2.0


def test_a_unit_waits_longer_than_a_server_takes_to_end() -> None:
    text = (DEPLOY / "systemd" / "duly@.service").read_text(encoding="utf-8")
    stop = int(re.search(r"TimeoutStopSec=(\d+)", text)[1])
    templates = [dotenv_values(DEPLOY / "env" / f"{name}.env") for name in ("staging", "production")]
    drain = max(float(values["DRAIN_NOTICE_SECONDS"]) for values in templates)
    assert stop >= drain + 8 + 5


# --- The workflow ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("D083")
def test_the_workflow_is_valid_and_runs_what_a_developer_runs() -> None:
    path = ROOT / ".github" / "workflows" / "ci.yml"
    document = {"on" if key is True else key: value for key, value in read_yaml(path).items()}
    assert list(faults("github-workflows", document)) == []
    assert all(job["timeout-minutes"] <= 60 for job in document["jobs"].values())
    steps = [step for job in document["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in [step.get("run") for step in steps]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one) for one in used)
    assert document["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"(?m)^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8")))
    wanted = {word for step in steps if step.get("run", "").startswith("make ") for word in step["run"].split()[1:]}
    assert wanted <= targets

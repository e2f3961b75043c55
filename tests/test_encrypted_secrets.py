"""Secrets that systemd keeps encrypted: made by the script, named by the drop-in, read by the server."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values

from duly.settings import load_settings
from tests.fixtures.database import skip_or_fail
from tests.fixtures.server import ROOT

DEPLOY = ROOT / "deploy"
DROP_IN = DEPLOY / "systemd" / "credentials.conf"
NAMES = {"duly.secret_key", "duly.field_encryption_key", "duly.metrics_token"}


def run(folder: Path, *command: object, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """With a key of the test's own in place of the machine's."""
    if shutil.which("systemd-creds") is None:
        skip_or_fail("systemd-creds is needed: apt-get install systemd")
    environment = {"PATH": os.environ["PATH"], "SYSTEMD_CREDENTIAL_SECRET": str(folder / "host.secret")}
    return subprocess.run(
        [str(word) for word in command], env=environment, check=check, capture_output=True, text=True, timeout=30
    )


def make(folder: Path, *words: str) -> str:
    return run(folder, DEPLOY / "scripts" / "make-secrets", "--encrypted", *words, folder / "store").stdout


def test_each_is_encrypted_once_and_under_its_own_name(tmp_path: Path) -> None:
    assert make(tmp_path, "--dry-run").count("would make") == 3
    assert not (tmp_path / "store").exists()
    assert make(tmp_path).count("made ") == 3
    store = tmp_path / "store"
    assert {one.name for one in store.iterdir()} == NAMES
    assert store.stat().st_mode & 0o777 == 0o700
    before = {one.name: one.read_bytes() for one in store.iterdir()}
    assert make(tmp_path).count("kept ") == 3
    assert {one.name: one.read_bytes() for one in store.iterdir()} == before
    clear = {name: run(tmp_path, "systemd-creds", "decrypt", store / name, "-").stdout for name in NAMES}
    assert len(set(clear.values())) == 3
    for name, secret in clear.items():
        assert len(secret) >= 64
        assert secret.encode() not in before[name]
    taken = run(
        tmp_path, "systemd-creds", "decrypt", "--name=duly.metrics_token", store / "duly.secret_key", "-", check=False
    )
    assert taken.returncode != 0
    (tmp_path / "host.secret").unlink()  # another machine
    (tmp_path / "other").mkdir()
    assert (
        run(tmp_path / "other", "systemd-creds", "decrypt", store / "duly.secret_key", "-", check=False).returncode != 0
    )


def test_a_group_and_encryption_exclude_each_other(tmp_path: Path) -> None:
    done = run(tmp_path, DEPLOY / "scripts" / "make-secrets", "--encrypted", "--readable-by", "duly", check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_what_the_drop_in_names_is_what_was_made_and_what_the_server_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DROP_IN.read_text(encoding="utf-8")
    make(tmp_path)
    loaded = dict(re.findall(r"^LoadCredentialEncrypted=([\w.]+):(\S+)$", text, re.MULTILINE))
    assert loaded == {name: f"/etc/credstore.encrypted/{name}" for name in NAMES}
    given = dict(re.findall(r"^Environment=(\w+)=%d/(\S+)$", text, re.MULTILINE))
    assert set(given.values()) == NAMES
    commented = dict(re.findall(r"^#Environment=(\w+)=%d/(\S+)$", text, re.MULTILINE))
    assert set(commented.values()) == set(re.findall(r"^#LoadCredentialEncrypted=([\w.]+):", text, re.MULTILINE))
    shown = tmp_path / "credentials"  # as systemd shows them to the unit
    shown.mkdir()
    for name, file in given.items():
        (shown / file).write_text(run(tmp_path, "systemd-creds", "decrypt", tmp_path / "store" / file, "-").stdout)
        monkeypatch.setenv(name, str(shown / file))
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environment="production", public_url="https://tasks.example.com")
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == (shown / "duly.secret_key").read_text()
    fields = {f"{name.upper()}_FILE" for name in type(settings).model_fields}
    assert set(given) | set(commented) <= fields


def test_systemd_takes_the_units_with_the_drop_in(tmp_path: Path) -> None:
    units = tmp_path / "etc" / "systemd" / "system"
    for where in ("duly@.service.d", "duly-.service.d"):
        (units / where).mkdir(parents=True)
        shutil.copy(DROP_IN, units / where / "credentials.conf")
    for path in (DEPLOY / "systemd").glob("*.service"):
        shutil.copy(path, units)
    (tmp_path / "lib" / "systemd" / "system").mkdir(parents=True)
    for path in Path("/lib/systemd/system").glob("*.target"):
        shutil.copy(path, tmp_path / "lib" / "systemd" / "system", follow_symlinks=False)
    for name in ("opt/duly/bin/duly", "bin/sh", "usr/bin/find"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for unit in ("duly@8001.service", "duly-worker.service", "duly-migrate.service", "duly-backup.service"):
        said = run(tmp_path, "systemd-analyze", "verify", f"--root={tmp_path}", unit)
        assert (said.stdout + said.stderr).strip() == "", unit
        # That the drop-in is read at all: a word that systemd does not know is told of, by its file.
    for where in ("duly@.service.d", "duly-.service.d"):
        (units / where / "credentials.conf").write_text("[Service]\nLoadCredentialEncripted=x\n")
    for unit in ("duly@8001.service", "duly-worker.service"):
        said = run(tmp_path, "systemd-analyze", "verify", f"--root={tmp_path}", unit, check=False)
        assert "LoadCredentialEncripted" in said.stderr, unit


def test_the_template_for_production_asks_for_128_bits() -> None:
    values = dotenv_values(DEPLOY / "env" / "production.env")
    assert int(values["MIN_RSA_BITS"] or 0) >= 3072

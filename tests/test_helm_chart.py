"""The Helm chart, rendered by Helm's own engine: valid objects, careful pods, and values that are refused."""

import json
import math
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

from duly.settings import Settings
from scripts.settings_table import _is_secret
from tests.fixtures.server import ROOT

CHART = ROOT / "deploy" / "helm" / "duly"
VERSIONS = ("1.33", "1.37")  # the oldest and the newest that kubernetes-validate knows
OUR_OWN = {
    "HOST", "PORT", "AUTO_MIGRATE", "DATA_DIR", "DRAIN_NOTICE_SECONDS", "ATTACHMENTS_ENABLED", "FILES_DIR",
    # Of tls.existingSecret; and probes have no certificate to show.
    "TLS_CERTIFICATE", "TLS_PRIVATE_KEY", "TLS_CLIENT_CA",
}  # fmt: skip
KEYS = ["DATABASE_URL", "SECRET_KEY", "METRICS_TOKEN", "REDIS_URL", "FILES_URL"]
LEAST: dict[str, Any] = {
    "settings": {"PUBLIC_URL": "https://tasks.example.com"},
    "secret": {"existingSecret": "duly-secrets"},
}
SETS: dict[str, dict[str, Any]] = {
    "least": LEAST,
    "everything": {
        "settings": {**LEAST["settings"], "ATTACHMENT_MAX_BYTES": 26214400, "LIVE_ENABLED": False},
        "secret": {"existingSecret": "duly-secrets", "keys": KEYS},
        "image": {"repository": "registry.example.com/duly", "digest": f"sha256:{'0' * 64}"},
        "imagePullSecrets": [{"name": "pull"}],
        "attachments": {"store": "objectStore"},
        "autoscaling": {"enabled": True},
        "ingress": {"enabled": True, "className": "nginx", "host": "tasks.example.com", "tlsSecretName": "tls"},
        "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"name": "ingress-nginx"}}}]},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "externalSecret": {"enabled": True, "store": {"name": "vault"}, "remoteKey": "tasks/duly"},
        "tls": {"existingSecret": "duly-tls"},
        "server": {"tolerations": [{"key": "a", "operator": "Exists"}], "nodeSelector": {"kubernetes.io/os": "linux"}},
    },
    "a volume and names": {
        "settings": {**LEAST["settings"], "ALLOWED_HOSTS": "tasks.example.com,other.example.com"},
        "secret": LEAST["secret"],
        "attachments": {"store": "volume", "volume": {"storageClassName": "nfs"}},
        "worker": {"enabled": False},
        "migration": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "fullnameOverride": "tasks",
    },
}


def objects(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the chart makes of values, by kind and component."""
    with Chart.load(CHART) as chart:
        rendered = chart.render(values, name="prod", namespace="tasks")
    found = {}
    for path, text in rendered.items():
        for one in yaml.safe_load_all(text) if path.endswith(".yaml") else ():
            if one is not None:
                component = one["metadata"]["labels"].get("app.kubernetes.io/component", "")
                found[f"{one['kind']} {component}".strip()] = one
    return found


@pytest.mark.parametrize("name", SETS)
def test_the_chart_makes_valid_objects(name: str) -> None:
    found = objects(SETS[name])
    for one in found.values():
        for version in VERSIONS if name == "everything" else VERSIONS[1:]:
            if one["kind"] not in {"ServiceMonitor", "ExternalSecret"}:  # their operators' own kinds
                kubernetes_validate.validate(one, version, strict=True)
    assert {"Deployment server", "Service server", "ConfigMap", "ServiceAccount"} <= set(found)
    report = lint(CHART, SETS[name], strict=True)
    assert (report["messages"], report["errors"]) == ([], [])


def test_each_part_is_there_when_it_is_asked_for() -> None:
    optional = {
        "Deployment worker", "Job migration", "PodDisruptionBudget", "NetworkPolicy", "Ingress",
        "HorizontalPodAutoscaler", "ServiceMonitor", "PersistentVolumeClaim",
        "ExternalSecret secrets",
    }  # fmt: skip
    there = {name: optional & set(objects(values)) for name, values in SETS.items()}
    assert there["least"] == {"Deployment worker", "Job migration", "PodDisruptionBudget", "NetworkPolicy"}
    assert there["everything"] == optional - {"PersistentVolumeClaim"}
    assert there["a volume and names"] == {"PersistentVolumeClaim"}


@pytest.mark.parametrize("name", SETS)
def test_no_pod_may_more_than_it_needs(name: str) -> None:
    found = objects(SETS[name])
    specs = [one["spec"]["template"]["spec"] for one in found.values() if one["kind"] in {"Deployment", "Job"}]
    assert specs
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        [container] = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert "memory" in container["resources"]["limits"]
        assert all(one["name"].endswith("_FILE") or "valueFrom" not in one for one in container["env"])
        mounted = {one["name"] for one in container["volumeMounts"]}
        asked = {"tls"} if "tls" in SETS[name] else set()
        assert mounted == {one["name"] for one in spec["volumes"]} == {"secrets", "tmp", "data"} | asked


def settings_of(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return found["ConfigMap"]["data"]


def test_servers_and_migration_have_the_same_settings_and_each_is_one_that_duly_knows() -> None:
    found = objects(SETS["everything"])
    given = settings_of(found)
    container = found["Deployment server"]["spec"]["template"]["spec"]["containers"][0]
    job = found["Job migration"]["spec"]["template"]["spec"]["containers"][0]
    files = {one["name"]: one["value"] for one in container["env"]}
    assert {one["name"]: one["value"] for one in job["env"]} == {**given, **files}
    assert set(files) == {f"{key}_FILE" for key in KEYS}
    values = {name.lower(): value for name, value in given.items()}
    assert set(values) <= set(Settings.model_fields)
    read = Settings(_env_file=None, **values)
    assert (read.attachment_max_bytes, read.live_enabled, read.drain_notice_seconds) == (26214400, False, 10)
    assert job["args"] == ["migrate", "upgrade"]
    assert "pre-upgrade" in found["Job migration"]["metadata"]["annotations"]["helm.sh/hook"]


def test_a_vault_fills_the_secret_that_every_pod_reads_before_the_migration_needs_it() -> None:
    found = objects(SETS["everything"])
    secret = found["ExternalSecret secrets"]
    assert (secret["apiVersion"], secret["spec"]["secretStoreRef"]) == (
        "external-secrets.io/v1", {"name": "vault", "kind": "ClusterSecretStore"},
    )  # fmt: skip
    pods = [
        found[name]["spec"]["template"]["spec"] for name in ("Deployment server", "Deployment worker", "Job migration")
    ]
    read = {one["secret"]["secretName"] for pod in pods for one in pod["volumes"] if one["name"] == "secrets"}
    target = secret["spec"]["target"]
    assert read == {target["name"]}
    assert target["creationPolicy"] == "Orphan"  # each upgrade makes the object anew, and the Secret must stay
    assert {one["secretKey"]: one["remoteRef"] for one in secret["spec"]["data"]} == {
        key: {"key": "tasks/duly", "property": key} for key in KEYS
    }
    hooks = [one["metadata"]["annotations"] for one in (secret, found["Job migration"])]
    assert hooks[0]["helm.sh/hook"] == hooks[1]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(hooks[0]["helm.sh/hook-weight"]) < int(hooks[1]["helm.sh/hook-weight"])
    apart = objects(
        {**SETS["everything"], "externalSecret": {"enabled": True, "store": {"name": "a", "kind": "SecretStore"}}}
    )
    assert [one["remoteRef"] for one in apart["ExternalSecret secrets"]["spec"]["data"]] == [
        {"key": key} for key in KEYS
    ]


def test_probes_ask_what_the_server_answers_under_a_name_that_it_knows() -> None:
    container = objects(SETS["a volume and names"])["Deployment server"]["spec"]["template"]["spec"]["containers"][0]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready",
    }  # fmt: skip
    assert all(probe["httpHeaders"] == [{"name": "Host", "value": "tasks.example.com"}] for probe in probes.values())


def test_with_a_certificate_probes_and_prometheus_speak_tls_too() -> None:
    found = objects(SETS["everything"])
    settings, pod = settings_of(found), found["Deployment server"]["spec"]["template"]["spec"]
    [mount] = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "tls"]
    assert settings["TLS_CERTIFICATE"].startswith(mount["mountPath"])
    assert settings["TLS_PRIVATE_KEY"].startswith(mount["mountPath"])
    assert [one["secret"]["secretName"] for one in pod["volumes"] if one["name"] == "tls"] == ["duly-tls"]
    probes = [pod["containers"][0][f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["scheme"] for probe in probes} == {"HTTPS"}
    [endpoint] = found["ServiceMonitor"]["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]["serverName"]) == ("https", "duly")
    without = objects(LEAST)
    assert "TLS_CERTIFICATE" not in settings_of(without)
    assert "tls" not in str(without["Deployment server"]).lower().split("etc/duly/secrets")[0]


def test_a_pod_has_longer_to_end_than_a_server_takes() -> None:
    spec = objects(LEAST)["Deployment server"]["spec"]["template"]["spec"]
    notice = float(settings_of(objects(LEAST))["DRAIN_NOTICE_SECONDS"])
    assert spec["terminationGracePeriodSeconds"] >= math.ceil(notice) + 8 + 2
    # Readiness has to be noticed before the server refuses connections.
    probe = spec["containers"][0]["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < notice


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing at all": ({}, "existingSecret"),
    "a misspelt setting": ({"settings": {"LOG_LEVLE": "info"}}, "LOG_LEVLE"),
    "a secret among the settings": ({"settings": {"SECRET_KEY": "a" * 40}}, "SECRET_KEY"),
    "a misspelt value": ({"replicaCount": 3}, "replicaCount"),
    "development": ({"settings": {"ENVIRONMENT": "development"}}, "ENVIRONMENT"),
    "no database": ({"secret": {"keys": ["SECRET_KEY"]}}, "secret/keys"),
    "an unknown secret": ({"secret": {"keys": ["DATABASE_URL", "SECRET_KEY", "SEKRET"]}}, "secret/keys"),
    "no server": ({"server": {"replicas": 0}}, "replicas"),
    "an ingress for nobody": ({"ingress": {"enabled": True}}, "host"),
    "a bucket without an address": ({"attachments": {"store": "objectStore"}}, "FILES_URL"),
    "no time to end": ({"server": {"drainNoticeSeconds": 31}}, "terminationGracePeriodSeconds"),
    "metrics for nobody": ({"serviceMonitor": {"enabled": True}}, "METRICS_TOKEN"),
    "secrets of no store": ({"externalSecret": {"enabled": True}}, "externalSecret"),
    "a misspelt store": ({"externalSecret": {"store": {"kind": "Vault"}}}, "kind"),
    "a scaler upside down": ({"autoscaling": {"enabled": True, "minReplicas": 9}}, "maxReplicas"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_chart_refuses(what: str) -> None:
    values, named = WRONG[what]
    base = {} if what == "nothing at all" else LEAST
    merged = {**base, **values}
    merged |= {key: {**base[key], **value} for key, value in values.items() if key in base}
    with Chart.load(CHART) as chart, pytest.raises(HelmError) as caught:
        chart.render(merged, name="prod")
    assert named in str(caught.value)


def test_the_schema_knows_exactly_the_settings_that_there_are() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))["properties"]
    secrets = {name.upper() for name, field in Settings.model_fields.items() if _is_secret(field.annotation)}
    secrets.add("DATABASE_URL")
    names = {name.upper() for name in Settings.model_fields}
    assert set(schema["secret"]["properties"]["keys"]["items"]["enum"]) == secrets
    assert set(schema["settings"]["properties"]) == names - secrets - OUR_OWN


def test_the_chart_packs_into_an_archive_that_renders_the_same(tmp_path: Path) -> None:
    with Chart.load(CHART) as chart:
        archive = chart.save(tmp_path)
    with Chart.load(archive) as packed, Chart.load(CHART) as chart:
        assert packed.render(LEAST, name="prod") == chart.render(LEAST, name="prod")
        assert not [one["name"] for one in packed.files if one["name"].startswith(".git")]

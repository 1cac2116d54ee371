"""The manifests: rendered by kustomize, valid, true to the service, and KEDA's query on PostgreSQL.

No cluster runs here: see deploy/kubernetes/README.md for what that leaves untested.
"""

from __future__ import annotations

import re
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from sqlalchemy import text, update

from shared.config import Settings
from shared.db import Sessions
from shared.tables import WorkItem, WorkStatus
from tests import keda, servers
from tests.work import add_job

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("managed-services", "gpu", "single-node")
OURS = ("web", "scheduler", "worker", "migrate")
pytestmark = pytest.mark.integration
Manifest = dict[str, Any]


def render(overlay: str) -> list[Manifest]:
    command = [str(servers.BIN / "kubectl"), "kustomize", str(MANIFESTS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(request.param)


def by_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def pod_specs(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in by_kind(manifests, "Deployment", "StatefulSet", "Job")
    }


def test_every_manifest_is_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if schema := keda.SCHEMAS.get(manifest["kind"]):
            jsonschema_rs.validate(schema, manifest)
        else:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    "change",
    [
        {"minReplicas": 1},
        {"maxReplicaCount": "20"},
        {"scaleTargetRef": {"deploymentName": "worker"}},
        {"triggers": []},
        {"triggers": [{"type": "postgresql", "metadata": {"query": "SELECT 1", "targetQueryValue": 600}}]},
        {"advanced": {"horizontalPodAutoscalerConfig": {"behaviour": {}}}},
    ],
)
def test_a_wrong_scaled_object_is_an_error(change: Manifest) -> None:
    (target,) = by_kind(render("managed-services"), "ScaledObject")
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(keda.SCHEMAS["ScaledObject"], {**target, "spec": {**target["spec"], **change}})


def test_a_wrong_manifest_or_an_unknown_kind_is_an_error(manifests: list[Manifest]) -> None:
    web = next(one for one in by_kind(manifests, "Deployment") if one["metadata"]["name"] == "web")
    wrong = {**web, "spec": {**web["spec"], "replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)
    unknown = {**web, "kind": "Deploymnet"}
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        kubernetes_validate.validate(unknown, kubernetes_validate.latest_version(), strict=True)


def test_every_pod_runs_without_rights(manifests: list[Manifest]) -> None:
    for name, spec in pod_specs(manifests).items():
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["serviceAccountName"] == "mt3-infer"
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"], name
            assert not rights["allowPrivilegeEscalation"], name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, name
            assert container["resources"]["limits"]["memory"], name
            volumes = {volume["name"] for volume in spec["volumes"]}
            mounted = {mount["name"] for mount in container["volumeMounts"]} - {"data"}
            assert mounted <= volumes, name


def test_selectors_match_the_labels_of_pods(manifests: list[Manifest]) -> None:
    labels = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in by_kind(manifests, "Deployment", "StatefulSet", "Job")
    ]
    selectors = [
        one["spec"]["selector"].get("matchLabels", one["spec"]["selector"])
        for one in by_kind(manifests, "Deployment", "StatefulSet", "Service", "PodDisruptionBudget")
    ]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in by_kind(manifests, "NetworkPolicy")]
    assert len(selectors) >= 8
    for selector in selectors:
        assert any(selector.items() <= pod.items() for pod in labels), selector


def test_every_pod_is_reached_only_where_a_policy_allows_it(manifests: list[Manifest]) -> None:
    policies = by_kind(manifests, "NetworkPolicy")
    for one in by_kind(manifests, "Deployment", "StatefulSet", "Job"):
        labels = one["spec"]["template"]["metadata"]["labels"]
        applied = [
            policy["spec"]
            for policy in policies
            if policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
            and "Ingress" in policy["spec"]["policyTypes"]
        ]
        assert applied, labels
        open_ports = [
            port["port"]
            for spec in applied
            for rule in spec.get("ingress", [])
            for port in rule["ports"]
            if "from" not in rule
        ]
        from_everywhere = {"web": ["http"], "s3": [9000]}  # clients, and their signed links
        assert open_ports == from_everywhere.get(one["metadata"]["name"], []), labels


def test_every_setting_exists_and_every_secret_is_explained(manifests: list[Manifest]) -> None:
    known = {f"MT3_{name.upper()}" for name in Settings.model_fields}
    for config in by_kind(manifests, "ConfigMap"):
        assert set(config["data"]) <= known
    readme = (MANIFESTS / "README.md").read_text()
    for spec in pod_specs(manifests).values():
        for container in spec["containers"]:
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {}).get("secretKeyRef")
                assert source is None or source["key"] in readme, variable


def test_probes_name_routes_and_commands_that_exist(manifests: list[Manifest]) -> None:
    from web import create_app

    rules = {rule.rule for rule in create_app(Settings()).url_map.iter_rules()}
    specs = pod_specs(manifests)
    (web,) = specs["web"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert web[probe]["httpGet"]["path"] in rules
    assert web["ports"] == [{"name": "http", "containerPort": 8000}]
    (worker,) = specs["worker"]["containers"]
    assert worker["livenessProbe"]["exec"]["command"] == ["python", "-m", "worker.liveness_file"]


def test_metrics_of_workers_and_schedulers_can_be_scraped(manifests: list[Manifest]) -> None:
    (config,) = [one["data"] for one in by_kind(manifests, "ConfigMap") if "MT3_METRICS_PORT" in one["data"]]
    assert config["MT3_METRICS_HOST"] == "0.0.0.0"
    port = {"name": "metrics", "containerPort": int(config["MT3_METRICS_PORT"])}
    for name in ("worker", "scheduler"):
        (container,) = pod_specs(manifests)[name]["containers"]
        assert container["ports"] == [port]
    policies = [one["spec"] for one in by_kind(manifests, "NetworkPolicy")]
    assert any(rule["ports"] == [{"port": "metrics"}] for policy in policies for rule in policy.get("ingress", []))


def test_commands_are_those_of_the_compose_file(manifests: list[Manifest]) -> None:
    """They are run on a real engine there, and by the replay of these manifests."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in OURS:
        (container,) = pod_specs(manifests)[name]["containers"]
        command = re.sub(r" --published-at \S+", "", services[name]["command"])
        assert container["args"] == command.split(), name


def test_a_pod_has_more_grace_than_its_service_needs(manifests: list[Manifest]) -> None:
    from web.__main__ import GRACE_SECONDS

    specs = pod_specs(manifests)
    before = int(specs["web"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert specs["web"]["terminationGracePeriodSeconds"] > before + GRACE_SECONDS
    assert specs["worker"]["terminationGracePeriodSeconds"] >= 30


def test_a_budget_of_disruption_lets_a_node_be_drained(manifests: list[Manifest]) -> None:
    for budget in by_kind(manifests, "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] >= 1


def test_workers_scale_by_keda_alone_and_gpu_workers_request_a_gpu() -> None:
    scaled = render("gpu")
    (worker,) = [one for one in by_kind(scaled, "Deployment") if one["metadata"]["name"] == "worker"]
    assert "replicas" not in worker["spec"], "applying would undo what KEDA decided"
    resources = worker["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    (target,) = by_kind(scaled, "ScaledObject")
    assert target["spec"]["scaleTargetRef"]["name"] == "worker"
    assert 1 <= target["spec"]["minReplicaCount"] < target["spec"]["maxReplicaCount"]
    (trigger,) = target["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    (authentication,) = by_kind(scaled, "TriggerAuthentication")
    (secret,) = authentication["spec"]["secretTargetRef"]
    assert (secret["parameter"], secret["name"], secret["key"]) == ("connection", "mt3-infer", "MT3_DATABASE_URL")
    assert trigger["authenticationRef"]["name"] in {
        one["metadata"]["name"] for one in by_kind(scaled, "TriggerAuthentication")
    }


def scaling_query() -> str:
    (target,) = by_kind(render("managed-services"), "ScaledObject")
    query: str = target["spec"]["triggers"][0]["metadata"]["query"]
    assert re.fullmatch(r"\d+", target["spec"]["triggers"][0]["metadata"]["targetQueryValue"])
    return query


def test_the_scaling_query_counts_queued_and_running_audio(postgres_sessions: Sessions) -> None:
    query = text(scaling_query())

    def value() -> float:
        with postgres_sessions() as session:
            return float(session.execute(query).scalar_one())

    assert value() == 0
    ids = [add_job(postgres_sessions) for _ in range(4)]
    assert value() == 4 * 60, "recordings of unknown length"
    with postgres_sessions.begin() as session:
        items = session.query(WorkItem).order_by(WorkItem.job_id).all()
        assert len(items) == len(ids)
        items[0].seconds = 1000
        items[1].seconds, items[1].seconds_done, items[1].status = 500, 300, WorkStatus.PROCESSING
        items[2].status = WorkStatus.SUCCEEDED
        items[3].run_after += timedelta(hours=1)
    assert value() == 1000 + 200
    with postgres_sessions.begin() as session:
        session.execute(update(WorkItem).values(status=WorkStatus.CANCELED))
    assert value() == 0

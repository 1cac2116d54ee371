"""Provide what Kubernetes manifests declare, done by a real engine: user, rights, files, probes and SIGTERM."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import yaml

from tests import servers
from tests.images.conftest import ROOT
from tests.images.engine import Engine
from tests.images.stack import PROJECT, Stack

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

SETTINGS = {
    "MT3_DATABASE_URL": "postgresql://mt3:p1@postgres:5432/mt3",
    "MT3_REDIS_URL": "redis://:p2@redis:6379/0",
    "MT3_STORAGE_URL": "s3://mt3/",
    "MT3_S3_ENDPOINT_URL": "http://s3:9000",
    "MT3_S3_ACCESS_KEY_ID": "mt3",
    "MT3_S3_SECRET_ACCESS_KEY": "p3-is-long-enough",
}
"""The secret `mt3-infer`, with the addresses of the Compose project's data services."""


@pytest.fixture(scope="module")
def specs() -> dict[str, dict[str, Any]]:
    """Return the pod of each workload by name, as rendered."""
    command = [str(servers.BIN / "kubectl"), "kustomize", str(ROOT / "deploy/kubernetes/managed-services")]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    manifests = list(yaml.safe_load_all(rendered))
    (config,) = (one["data"] for one in manifests if one["kind"] == "ConfigMap")
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]
        for one in manifests
        if one["kind"] in ("Deployment", "Job")
    }
    for pod in pods.values():
        pod["config"] = config
    return pods


@contextmanager
def started(engine: Engine, image: str, name: str, pod: dict[str, Any]) -> Iterator[str]:
    """Start a pod's container with the user, rights, files and settings of the manifest."""
    (container,) = pod["containers"]
    assert "command" not in container, "the image's entry point passes signals on"
    user, rights = pod["securityContext"], container["securityContext"]
    words = ["--user", f"{user['runAsUser']}:{user['runAsGroup']}", "--network", f"{PROJECT}_default"]
    words += ["--read-only"] if rights["readOnlyRootFilesystem"] else []
    words += [f"--cap-drop={name}" for name in rights["capabilities"]["drop"]]
    words += [] if rights["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
    words += [f"--memory={container['resources']['limits']['memory'].replace('i', '').lower()}"]
    for mount in container["volumeMounts"]:  # an emptyDir is world-writable
        words += ["--tmpfs", f"{mount['mountPath']}:mode=1777"]
    own = {variable["name"]: variable["value"] for variable in container.get("env", [])}
    for key, value in (pod["config"] | SETTINGS | own).items():
        words += ["--env", f"{key}={value}"]
    full = f"mt3-replay-{name}"
    engine.run("rm", "--force", full, check=False)
    engine.run("run", "--detach", "--name", full, *words, image, *container["args"])
    try:
        yield full
    finally:
        engine.run("rm", "--force", full)


def passes(engine: Engine, name: str, container: dict[str, Any], probe: dict[str, Any]) -> bool:
    """Run a probe in the container, as the kubelet would."""
    if "exec" in probe:
        command = probe["exec"]["command"]
    else:
        (port,) = (one["containerPort"] for one in container["ports"] if one["name"] == probe["httpGet"]["port"])
        address = f"http://127.0.0.1:{port}{probe['httpGet']['path']}"
        command = ["python", "-c", f"import urllib.request as u; u.urlopen('{address}', timeout=5)"]
    words = [engine.program, "exec", name, *command]
    return subprocess.run(words, env=engine.environment, capture_output=True, check=False).returncode == 0


def stop(engine: Engine, name: str, grace: int) -> tuple[float, int]:
    """Send SIGTERM, and SIGKILL after the grace; return the seconds that it took and the exit code."""
    began = time.monotonic()
    engine.run("stop", "--time", str(grace), name, timeout=grace + 60)
    took = time.monotonic() - began
    return took, int(engine.run("inspect", "--format", "{{.State.ExitCode}}", name))


@pytest.mark.parametrize("name", ["web", "worker", "scheduler"])
def test_a_container_starts_passes_its_probes_and_ends(
    engine: Engine, images: dict[str, str], stack: Stack, specs: dict[str, dict[str, Any]], name: str
) -> None:
    pod = specs[name]
    (container,) = pod["containers"]
    image = images["worker" if container["image"].startswith("mt3-infer-worker") else "web"]
    with started(engine, image, name, pod) as running:
        probes = [
            container[key] for key in ("startupProbe", "readinessProbe", "livenessProbe") if key in container
        ]
        began = time.monotonic()
        for probe in probes:
            allowed = probe["periodSeconds"] * probe.get("failureThreshold", 3)
            check = partial(passes, engine, running, container, probe)
            servers.wait_until(check, seconds=allowed, what=str(probe))
        print(f"\n{name}: all probes pass after {time.monotonic() - began:.1f} s")
        if not probes:
            time.sleep(10)
        assert engine.run("inspect", "--format", "{{.State.Running}}", running) == "true", engine.run(
            "logs", running
        )
        before = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        if before:
            engine.run("exec", running, *before)
        took, code = stop(engine, running, pod["terminationGracePeriodSeconds"])
        print(f"{name}: SIGTERM while running: {took:.1f} s, exit code {code}")
        assert code in (0, 143), engine.run("logs", running)
        assert took < pod["terminationGracePeriodSeconds"] / 2 + 5


def test_the_migration_job_ends_by_itself(
    engine: Engine, images: dict[str, str], stack: Stack, specs: dict[str, dict[str, Any]]
) -> None:
    with started(engine, images["web"], "migrate", specs["migrate"]) as running:
        assert engine.run("wait", running, timeout=60) == "0", engine.run("logs", running)

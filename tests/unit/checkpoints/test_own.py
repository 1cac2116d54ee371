"""Weights of one's own, named by variables of the environment."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints.catalog import load_catalog
from checkpoints.errors import CheckpointError, CheckpointNotFoundError
from checkpoints.own import own_weights
from checkpoints.store import CheckpointStore
from mt3_infer.loading import download_model, load_model
from worker.engine import TranscriptionEngine

VARIABLE = "MT3_CHECKPOINTS_BASIC_PITCH"


@pytest.fixture
def own(tmp_path: Path, checkpoint_dir: Path) -> Path:
    """Return weights that are no published ones, but those of a network all the same."""
    published = download_model("basic_pitch", store=CheckpointStore(checkpoint_dir)) / "nmp.onnx"
    file = tmp_path / "own.onnx"
    file.write_bytes(published.read_bytes() + b"\x72\x02\x0a\x00")  # metadata_props of ONNX: an empty one
    return file


def offline_store(tmp_path: Path, own: Path) -> CheckpointStore:
    environment = {"MT3_CHECKPOINT_DIR": str(tmp_path / "store"), "MT3_OFFLINE": "1", VARIABLE: str(own)}
    return CheckpointStore.from_environment(environment)


def test_models_are_named_in_any_way_that_the_catalog_knows() -> None:
    environment = {
        "MT3_CHECKPOINTS_FAST": "/srv/a.pth",
        "MT3_CHECKPOINTS_YOURMT3": "/srv/b",
        "MT3_CHECKPOINT_DIR": "/x",
    }
    assert own_weights(load_catalog(), environment) == {"mr_mt3": Path("/srv/a.pth"), "yourmt3": Path("/srv/b")}
    assert own_weights(load_catalog(), {VARIABLE: ""}) == {}


def test_wrong_names_are_one_sentence() -> None:
    with pytest.raises(
        CheckpointError, match="MT3_CHECKPOINTS_MT5 names no model; the variables are: MT3_CHECKPOINTS_"
    ):
        own_weights(load_catalog(), {"MT3_CHECKPOINTS_MT5": "/srv/a"})
    with pytest.raises(CheckpointError, match="second variable with weights for mr_mt3"):
        own_weights(load_catalog(), {"MT3_CHECKPOINTS_FAST": "/a", "MT3_CHECKPOINTS_MR_MT3": "/b"})


def test_own_weights_are_loaded_without_any_download(tmp_path: Path, own: Path) -> None:
    model = load_model("light", device="cpu", store=offline_store(tmp_path, own))
    assert model.weights_sha256 == hashlib.sha256(own.read_bytes()).hexdigest()
    assert not (tmp_path / "store").exists()


def test_the_service_runs_own_weights_and_reports_them_as_installed(tmp_path: Path, own: Path) -> None:
    store = offline_store(tmp_path, own)
    engine = TranscriptionEngine(store, device="cpu", max_audio_seconds=60, estimates=False)
    assert engine.installed()["basic_pitch"]
    assert not engine.installed()["mt3_pytorch"]
    engine.fetch("basic_pitch", lambda at: pytest.fail("nothing is to be fetched"))
    assert engine.load("basic_pitch").weights_sha256 == hashlib.sha256(own.read_bytes()).hexdigest()


def test_missing_file_is_named_with_its_variable(tmp_path: Path) -> None:
    store = offline_store(tmp_path, tmp_path / "gone.onnx")
    with pytest.raises(CheckpointNotFoundError, match=rf"no weights at .*gone\.onnx, which {VARIABLE} names"):
        load_model("basic_pitch", store=store)


def test_published_weights_can_still_be_installed_beside_them(
    tmp_path: Path, own: Path, checkpoint_dir: Path
) -> None:
    download_model("basic_pitch", store=CheckpointStore(checkpoint_dir))
    store = CheckpointStore(checkpoint_dir, offline=True, own={"basic_pitch": own})
    assert store.require("basic_pitch") == checkpoint_dir / "basic_pitch"
    store.verify("basic_pitch")


def test_worker_does_not_start_with_a_wrong_name() -> None:
    environment = {**os.environ, "MT3_CHECKPOINTS_MT5": "/srv/a"}
    command = [sys.executable, "-c", "import worker.app"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1), run.stderr
    assert "MT3_CHECKPOINTS_MT5 names no model" in run.stderr

"""Names become networks, or an error that says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints.store import CheckpointStore
from mt3_infer import (
    CheckpointNotFoundError,
    InvalidOptionError,
    MissingDependencyError,
    UnknownModelError,
    get_model_info,
    list_models,
    load_model,
)
from mt3_infer.models import MODELS


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", offline=True)


def test_an_alias_is_its_model(store: CheckpointStore) -> None:
    assert get_model_info("light", store) == get_model_info("basic_pitch", store)


def test_every_model_of_the_table_has_a_checkpoint(store: CheckpointStore) -> None:
    assert [info.name for info in list_models(store)] == list(MODELS)
    assert all(info.size > 0 and info.licence and not info.installed for info in list_models(store))


def test_an_unknown_name_lists_the_known_ones(store: CheckpointStore) -> None:
    with pytest.raises(UnknownModelError, match=r"basic_pitch \(light\)"):
        load_model("no_such_model", store=store)


def test_without_download_the_error_has_the_command(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointNotFoundError, match="mt3-infer download basic_pitch"):
        load_model("basic_pitch", auto_download=False, store=store)


def test_a_custom_checkpoint_must_exist(store: CheckpointStore, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"none\.onnx"):
        load_model("basic_pitch", checkpoint_path=tmp_path / "none.onnx", store=store)


def test_a_device_that_the_model_does_not_run_on_is_an_error(store: CheckpointStore, tmp_path: Path) -> None:
    weights = tmp_path / "nmp.onnx"
    weights.touch()
    with pytest.raises(InvalidOptionError, match="CPU"):
        load_model("basic_pitch", checkpoint_path=weights, device="cuda", store=store)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    spec = replace(MODELS["basic_pitch"], network="no_such_package:load")
    with pytest.raises(MissingDependencyError, match="no_such_package"):
        spec.load(tmp_path)

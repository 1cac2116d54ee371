"""Names become networks, or an error that says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints.store import CheckpointStore
from mt3_infer import (
    CheckpointError,
    CheckpointNotFoundError,
    InvalidOptionError,
    MissingDependencyError,
    UnknownModelError,
    download_model,
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


@pytest.mark.parametrize("name", ["transkun", "piano"])
def test_a_checkpoint_without_a_network_can_only_be_downloaded(store: CheckpointStore, name: str) -> None:
    for ask in (load_model, get_model_info):
        with pytest.raises(UnknownModelError) as caught:
            ask(name, store=store)
        said = "transkun can be downloaded, but this version has no network for it; the models are: basic_pitch ("
        assert str(caught.value).startswith(said)
    with pytest.raises(CheckpointError, match="transkun"):
        download_model(name, store=store)  # known, but nobody may be asked


def test_another_checkpoint_of_a_model_says_how_it_is_loaded(store: CheckpointStore) -> None:
    with pytest.raises(UnknownModelError) as caught:
        load_model("mt3_t5x", store=store)
    assert str(caught.value) == (
        "mt3_t5x is another checkpoint of mt3_pytorch: "
        "load_model('mt3_pytorch', checkpoint_path=download_model('mt3_t5x'))."
    )


def test_without_download_the_error_has_the_command(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointNotFoundError, match="mt3-infer download basic_pitch"):
        load_model("basic_pitch", auto_download=False, store=store)


def test_a_custom_checkpoint_must_exist(store: CheckpointStore, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"none\.onnx"):
        load_model("basic_pitch", checkpoint_path=tmp_path / "none.onnx", store=store)


def test_a_device_that_the_model_does_not_run_on_is_an_error(store: CheckpointStore, tmp_path: Path) -> None:
    weights = tmp_path / "nmp.onnx"
    weights.write_bytes(b"weights")
    with pytest.raises(InvalidOptionError, match="CPU"):
        load_model("basic_pitch", checkpoint_path=weights, device="cuda", store=store)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    spec = replace(MODELS["basic_pitch"], network="no_such_package:load")
    with pytest.raises(MissingDependencyError, match="no_such_package"):
        spec.load(tmp_path)

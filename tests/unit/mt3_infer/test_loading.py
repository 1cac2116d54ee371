"""Names become networks, or an error that says what to do."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoints.catalog import Catalog, load_catalog
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
from mt3_infer.errors import WeightsError
from mt3_infer.model import DEFAULT_MODEL
from mt3_infer.models import MODELS, ModelSpec


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", offline=True)


def test_an_alias_is_its_model(store: CheckpointStore) -> None:
    assert get_model_info("light", store) == get_model_info("basic_pitch", store)


def test_every_model_of_the_table_has_a_checkpoint(store: CheckpointStore) -> None:
    assert [info.name for info in list_models(store)] == list(MODELS)
    assert all(info.size > 0 and info.license and not info.installed for info in list_models(store))


def test_an_unknown_name_lists_the_known_ones(store: CheckpointStore) -> None:
    with pytest.raises(UnknownModelError, match=r"basic_pitch \(light\)"):
        load_model("no_such_model", store=store)


@pytest.mark.parametrize("name", ["later", "flute"])
def test_a_checkpoint_without_a_network_can_only_be_downloaded(tmp_path: Path, name: str) -> None:
    catalog = load_catalog()
    later = replace(catalog.entries["transkun"], name="later", aliases=("flute",))
    catalog = Catalog({**catalog.entries, "later": later})
    store = CheckpointStore(tmp_path / "checkpoints", offline=True, catalog=catalog)
    for ask in (load_model, get_model_info):
        with pytest.raises(UnknownModelError) as caught:
            ask(name, store=store)
        message = "later can be downloaded, but this version has no network for it; the models are: basic_pitch ("
        assert str(caught.value).startswith(message)
    with pytest.raises(CheckpointError, match="later"):
        download_model(name, store=store)  # known, but nobody may be asked


def test_error_for_another_checkpoint_names_how_to_load_it(store: CheckpointStore) -> None:
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
    weights.touch()
    with pytest.raises(InvalidOptionError, match="CPU"):
        load_model("basic_pitch", checkpoint_path=weights, device="cuda", store=store)


@pytest.mark.parametrize(
    ("model", "choices", "message"),
    [
        ("basic_pitch", {"device": "cuda"}, "runs on the CPU"),
        ("basic_pitch", {"dtype": "float32"}, "takes no option 'dtype'"),
        ("mt3_pytorch", {"device": "tpu"}, "no device 'tpu'"),
        ("mt3_pytorch", {"device": "cuda:99"}, "no device 'cuda:99'"),
        ("mt3_pytorch", {"dtype": "int3"}, "no dtype 'int3'"),
        ("yourmt3", {"batch_size": 0}, "must be at least 1"),
        ("transkun", {"device": "mps"}, "not on 'mps'"),
        ("transkun", {"memory_rows": 4}, "takes no option 'memory_rows'"),
    ],
)
def test_wrong_choices_are_errors_before_anything_is_fetched(
    store: CheckpointStore, model: str, choices: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointStore, "fetch", lambda *_: pytest.fail("It was fetched."))
    with pytest.raises(InvalidOptionError, match=message):
        load_model(model, store=store, **choices)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    spec = replace(MODELS["basic_pitch"], network="no_such_package:load")
    with pytest.raises(MissingDependencyError, match="no_such_package"):
        spec.load(tmp_path)


def test_missing_module_of_the_library_is_no_missing_package(tmp_path: Path) -> None:
    spec = replace(MODELS["basic_pitch"], network="mt3_infer.models.no_such_network:load")
    with pytest.raises(ModuleNotFoundError, match="no_such_network"):
        spec.load(tmp_path)


NO_WEIGHTS = {
    "empty": b"",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 230444\n",
    "page": b"\n <!DOCTYPE html><html><title>404</title></html>",
    "old page": b"<HTML><head>",
    "xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "bytes": bytes(range(256)) * 16,
    "zip": b"PK\x03\x04" + bytes(100),
    "text": b'{"error": "Not Found"}',
}


@pytest.mark.parametrize("content", list(NO_WEIGHTS))
@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("basic_pitch", "nmp.onnx"),
        ("basic_pitch", "other.bin"),
        ("mt3_pytorch", "mt3.pth"),
        ("mt3_pytorch", "mt3.safetensors"),
        ("mt3_pytorch", "mt3.bin"),
        ("mr_mt3", "exp_memory64.ckpt"),
        ("yourmt3", "last.ckpt"),
    ],
)
def test_what_is_no_checkpoint_is_named_in_one_sentence(
    store: CheckpointStore, tmp_path: Path, model: str, name: str, content: str
) -> None:
    file = tmp_path / name
    file.write_bytes(NO_WEIGHTS[content])
    with pytest.raises(WeightsError) as raised:
        load_model(model, checkpoint_path=file, device="cpu", store=store)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)
    word = {"empty": "empty", "pointer": "Git LFS", "page": "web page", "old page": "web page", "xml": "web page"}
    assert word.get(content, "") in str(raised.value)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_off_or_damaged_is_an_error(
    store: CheckpointStore, tmp_path: Path, checkpoint_dir: Path, kept: float
) -> None:
    whole = (download_model("basic_pitch", store=CheckpointStore(checkpoint_dir)) / "nmp.onnx").read_bytes()
    file = tmp_path / "nmp.onnx"
    for content in (whole[: int(kept * len(whole))], bytes(int(kept * len(whole))) + whole):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=r"nmp\.onnx"):
            load_model("basic_pitch", checkpoint_path=tmp_path, store=store)


def test_a_network_that_is_not_basic_pitch_is_an_error(store: CheckpointStore, tmp_path: Path) -> None:
    """An ONNX file of a single node, which gives its input: written by hand, in the format's own encoding."""

    def field(number: int, content: bytes | int) -> bytes:
        if isinstance(content, int):
            return bytes([number << 3, content])
        return bytes([number << 3 | 2, len(content)]) + content

    shape = field(2, field(1, field(1, 1) + field(2, field(1, field(1, 4)))))
    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"g") + field(11, field(1, b"x") + shape) + field(12, field(1, b"y") + shape)
    file = tmp_path / "identity.onnx"
    file.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, b"") + field(2, 13)))
    with pytest.raises(WeightsError, match="another network"):
        load_model("basic_pitch", checkpoint_path=file, store=store)


def test_a_folder_without_weights_is_an_error(store: CheckpointStore, tmp_path: Path) -> None:
    (tmp_path / "mt3.pth").mkdir()
    for model in ("basic_pitch", "mt3_pytorch", "mr_mt3", "yourmt3"):
        with pytest.raises(CheckpointNotFoundError, match=f"no checkpoint of {model} in"):
            load_model(model, checkpoint_path=tmp_path, store=store)


@pytest.mark.parametrize("error", [AssertionError("?"), KeyError("x"), OSError(errno.EINVAL, "mmap"), EOFError()])
def test_whatever_a_reader_of_weights_raises_is_about_the_file(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(ModelSpec, "load", fail)
    file = tmp_path / "mt3.pth"
    file.write_bytes(b"weights")
    with pytest.raises(WeightsError, match=r"mt3\.pth is damaged"):
        load_model("mt3_pytorch", checkpoint_path=file, store=store)


def test_running_out_of_memory_is_not_taken_for_a_damaged_file(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(ModelSpec, "load", fail)
    file = tmp_path / "mt3.pth"
    file.write_bytes(b"weights")
    with pytest.raises(RuntimeError, match="out of memory"):
        load_model("mt3_pytorch", checkpoint_path=file, store=store)


@pytest.mark.parametrize(
    "option", [{"batch_size": "4"}, {"batch_size": 2.0}, {"batch_size": True}, {"checkpoint_path": 7}], ids=repr
)
def test_options_of_the_wrong_kind_are_refused(store: CheckpointStore, option: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        load_model("mt3_pytorch", store=store, **option)


def test_without_a_name_the_default_is_loaded(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointNotFoundError, match=f"mt3-infer download {DEFAULT_MODEL}"):
        load_model(auto_download=False, store=store)

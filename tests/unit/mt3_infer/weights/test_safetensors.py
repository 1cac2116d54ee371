"""Pickled weights become safetensors once, and nothing that a pickle says is ever done."""

from __future__ import annotations

import logging
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from checkpoints.catalog import Catalog, Entry
from checkpoints.files import CheckpointFile, SourceSpec, sha256_of
from checkpoints.store import CheckpointStore
from mt3_infer import load_model
from mt3_infer.errors import WeightsError
from mt3_infer.models import ModelSpec
from mt3_infer.weights.files import as_safetensors, read_pickled
from tests.unit.checkpoints.fakes import FakeSource, delivers

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16)}


class Evil:
    """An object that runs code when a pickle of it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def same(found: dict[str, Any]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def saved(folder: Path, content: Any, name: str = "mt3.pth") -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / name)
    return folder


def test_a_state_dict_is_converted_and_what_lies_beside_comes_along(tmp_path: Path) -> None:
    folder = saved(tmp_path / "mt3", TENSORS)
    (folder / "config.json").write_text("{}")
    (folder / ".verified.json").write_text("{}")
    converted = as_safetensors(folder)
    assert converted == folder / "safetensors"
    assert sorted(path.name for path in converted.iterdir()) == ["config.json", "mt3.safetensors"]
    assert same(safetensors_torch.load_file(converted / "mt3.safetensors"))


def test_it_is_done_once_and_again_when_the_original_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path / "mt3", {"old": torch.zeros(1)})
    with caplog.at_level(logging.INFO):
        as_safetensors(folder)
        as_safetensors(folder)
        assert len(caplog.messages) == 1
        saved(folder, TENSORS)
        assert same(safetensors_torch.load_file(as_safetensors(folder) / "mt3.safetensors"))


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    folder = saved(tmp_path / "m", {"a": base, "b": base, "c": base.reshape(2, 3).T})
    loaded = safetensors_torch.load_file(as_safetensors(folder) / "mt3.safetensors")
    assert torch.equal(loaded["b"], base)
    assert torch.equal(loaded["c"], base.reshape(2, 3).T)


def test_a_lightning_checkpoint_is_read_without_the_project_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("utils.task_manager")
    source = (
        "class TaskManager:\n    def __init__(self): self.codec = [1, 2]\n"
        "class Codec(list): pass\nclass Table(dict): pass\n"
    )
    exec(source, module.__dict__)
    for name in ("TaskManager", "Codec", "Table"):
        getattr(module, name).__module__ = "utils.task_manager"
    monkeypatch.setitem(sys.modules, "utils", ModuleType("utils"))
    monkeypatch.setitem(sys.modules, "utils.task_manager", module)
    parameter = torch.nn.Parameter(TENSORS["b"])
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**TENSORS, "b": parameter},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}}],
        "hyper_parameters": {
            "task_manager": module.TaskManager(),
            "codec": module.Codec([1, 2]),
            "table": module.Table(a=1),
            "array": __import__("numpy").arange(3),
            "path": Path("x"),
        },
    }
    folder = saved(tmp_path / "yourmt3", content, "last.ckpt")
    monkeypatch.delitem(sys.modules, "utils.task_manager")
    assert same(read_pickled(folder / "last.ckpt"))
    assert same(safetensors_torch.load_file(as_safetensors(folder) / "last.safetensors"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, zipped: bool) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pth"
    content = {"state_dict": TENSORS, "evil": Evil(canary)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        assert same(read_pickled(path))
    else:
        with pytest.raises(WeightsError):
            read_pickled(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the trap does not work: this test shows nothing"


def test_a_legacy_file_of_tensors_is_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_pickled(tmp_path / "old.pth"))


def test_file_without_weights_is_reported(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", {"epoch": 1})
    with pytest.raises(WeightsError) as caught:
        as_safetensors(folder)
    assert str(caught.value) == f"{folder / 'mt3.pth'} holds no weights."
    whole = saved(tmp_path / "n", TENSORS) / "mt3.pth"
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(WeightsError) as caught:
        read_pickled(whole)
    assert str(caught.value) == f"{whole} is no file of PyTorch weights, or a damaged one."


def test_a_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/constants.pkl", b"")
        archive.writestr("program/data.pkl", b"")
    with pytest.raises(WeightsError) as caught:
        read_pickled(path)
    assert str(caught.value) == f"{path} is a TorchScript program, not weights."


def test_other_formats_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "nmp.onnx").write_bytes(b"onnx")
    assert as_safetensors(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["nmp.onnx"]


def test_a_folder_that_cannot_be_written_to_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tmp_path / "m", TENSORS)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert as_safetensors(folder) == folder
    assert "is read as it is" in caplog.text


def test_a_network_is_loaded_from_the_converted_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = saved(tmp_path / "published", TENSORS) / "mt3.pth"
    file = CheckpointFile("mt3.pth", published.stat().st_size, sha256_of(published), (SourceSpec("s", {}),))
    store = CheckpointStore(
        tmp_path / "store",
        catalog=Catalog({"basic_pitch": Entry("basic_pitch", (), "MIT", "", "", (file,))}),
        open_source=lambda _: FakeSource("s", delivers(published.read_bytes())),
    )
    loaded: list[Path] = []
    monkeypatch.setattr(ModelSpec, "load", lambda _, path, **options: loaded.append(path))
    model = load_model("basic_pitch", store=store)
    assert loaded == [tmp_path / "store" / "basic_pitch" / "safetensors"]
    assert model.weights_sha256 == file.sha256
    assert store.is_installed("basic_pitch")

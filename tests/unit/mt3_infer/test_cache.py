"""`transcribe` keeps the models that were used last, and loads no other one than was asked for."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mt3_infer import Model, MT3Error, clear_cache, transcribe
from mt3_infer.cache import ModelCache, models
from mt3_infer.loading import get_model_spec
from tests.recordings import tone
from tests.unit.mt3_infer.test_transcribe import CountingNetwork

Loads = list[tuple[str, dict[str, Any]]]


def small_model(name: str = "basic_pitch") -> Model:
    return Model(get_model_spec(name), CountingNetwork(), "ab" * 32, "Apache-2.0")


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loads]:
    """Every load gives the small network; what was asked for is noted."""
    calls: Loads = []

    def load(name: str, **arguments: Any) -> Model:
        calls.append((name, arguments))
        return small_model(name)

    monkeypatch.setattr("mt3_infer.loading.load_model", load)
    monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(tmp_path_factory.mktemp("checkpoints")))
    clear_cache()
    yield calls
    clear_cache()


def test_a_loop_over_recordings_loads_the_default_model_once(loads: Loads, bach: Path) -> None:
    for audio in (tone(1.0), bach, tone(1.0), str(bach)):
        transcribe(audio)
    assert [name for name, _ in loads] == ["mt3_pytorch"]


def test_a_model_has_one_place_under_all_its_names(loads: Loads) -> None:
    for name in ("mt3_pytorch", "default", "accurate", "official"):
        transcribe(tone(1.0), model=name)
    assert len(loads) == 1


@pytest.mark.parametrize(
    "other",
    [{"model": "basic_pitch"}, {"device": "cpu"}, {"dtype": "bfloat16"}, {"batch_size": 2}],
    ids=repr,
)
def test_whatever_makes_another_model_is_loaded(loads: Loads, other: dict[str, Any]) -> None:
    for options in ({}, other, {}, other):
        transcribe(tone(1.0), **options)
    assert len(loads) == 2
    assert {"model": loads[1][0], **loads[1][1]}.items() >= other.items()


def test_another_store_is_another_model(loads: Loads, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    transcribe(tone(1.0))
    monkeypatch.setenv("MT3_CHECKPOINT_DIR", str(tmp_path))
    transcribe(tone(1.0))
    assert len(loads) == 2


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_checkpoint_that_was_replaced_is_loaded_again(loads: Loads, tmp_path: Path, as_folder: bool) -> None:
    weights, config = tmp_path / "mt3.pth", tmp_path / "config.json"
    given = tmp_path if as_folder else weights

    def load_twice() -> int:
        for _ in range(2):
            transcribe(tone(1.0), checkpoint_path=given)
        return len(loads)

    weights.write_bytes(b"one")
    assert load_twice() == 1
    weights.write_bytes(b"other")
    assert load_twice() == 2
    weights.write_bytes(b"later")
    os.utime(weights, ns=(1, 1))
    assert load_twice() == 3
    config.write_text("{}")
    assert load_twice() == 4


def test_what_was_used_last_is_kept(loads: Loads) -> None:
    for device in ("cpu", "cuda", "cpu", "cuda:1", "cpu", "cuda"):
        transcribe(tone(1.0), device=device)
    assert [arguments["device"] for _, arguments in loads] == ["cpu", "cuda", "cuda:1", "cuda"]


def test_clearing_lets_go_of_the_network(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[Any]] = []

    def load(name: str, **arguments: Any) -> Model:
        model = small_model(name)
        kept.append(weakref.ref(model.network))
        return model

    monkeypatch.setattr("mt3_infer.loading.load_model", load)
    transcribe(tone(1.0))
    gc.collect()
    assert kept[0]() is not None
    clear_cache()
    assert kept[0]() is None
    transcribe(tone(1.0))
    assert len(kept) == 2


def test_many_threads_load_once() -> None:
    cache, loaded, all_ask = ModelCache(), [], threading.Barrier(8)

    def load() -> Model:
        loaded.append(1)
        return small_model()

    def ask(_: int) -> Model:
        all_ask.wait()
        return cache.get("key", load)

    with ThreadPoolExecutor(8) as threads:
        given = list(threads.map(ask, range(8)))
    assert len(loaded) == 1
    assert all(model is given[0] for model in given)


def test_a_model_that_is_there_does_not_wait_for_one_that_is_loaded() -> None:
    cache, is_asked, may_end = ModelCache(), threading.Event(), threading.Event()
    ready = cache.get("ready", small_model)

    def load_slowly() -> Model:
        is_asked.set()
        assert may_end.wait(60)
        return small_model()

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(cache.get, "slow", load_slowly)
        assert is_asked.wait(60)
        assert cache.get("ready", small_model) is ready
        may_end.set()
        assert slow.result() is not ready


def test_a_load_that_fails_is_tried_again() -> None:
    cache = ModelCache()

    def fail() -> Model:
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        cache.get("key", fail)
    assert cache.get("key", small_model).spec.name == "basic_pitch"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_starts_with_none_and_waits_for_no_lock_of_its_parent() -> None:
    holds, may_end = threading.Event(), threading.Event()

    def load_slowly() -> Model:
        holds.set()
        assert may_end.wait(60)
        return small_model()

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(models.get, "key", load_slowly)
        assert holds.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # ends it if it hangs
            os._exit(0 if models.get("key", small_model).spec.name == "basic_pitch" else 1)
        _, status = os.waitpid(child, 0)
        may_end.set()
        slow.result()
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "nothing"},
        {"checkpoint_path": 7},
        {"checkpoint_path": ""},
        {"onset_threshold": 0.5},  # an option of another model
        {"progress": 7},
        {"max_seconds": "9"},
        {"sr": "44100"},
        {"audio": b"RIFF"},
        {"audio": __file__},
        {"audio": "https://example.com/song.mp3"},
    ],
    ids=repr,
)
def test_wrong_arguments_are_found_before_a_model_is_loaded(loads: Loads, wrong: dict[str, Any]) -> None:
    with pytest.raises(MT3Error):
        transcribe(**{"audio": tone(1.0), **wrong})
    assert loads == []

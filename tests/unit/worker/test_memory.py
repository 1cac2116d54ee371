"""A network that runs out of memory above some batch size: the job is retried with a smaller one."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from checkpoints.store import CheckpointStore
from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import Segment, SegmentGrid
from mt3_infer.inference.engine import Engine, Request, RequestId
from mt3_infer.model import Model
from mt3_infer.models import MODELS, ModelOptions
from mt3_infer.network import NetworkOutput
from mt3_infer.symbolic.notes import Note
from tests.recordings import tone, write
from worker.engine import TranscriptionEngine
from worker.errors import classify, is_out_of_memory

FULL = 8


class Hungry:
    """Slots of a network with memory for `room` segments at a time."""

    def __init__(self, slots: int, room: int, error: Exception) -> None:
        self.slots, self._room, self._error = slots, room, error
        self._under_way: list[tuple[RequestId, Waveform]] = []

    @property
    def active(self) -> int:
        return len(self._under_way)

    @property
    def free(self) -> int:
        return self.slots - self.active

    def add_requests(self, requests: Sequence[Request[Waveform, float]], ids: Sequence[RequestId]) -> None:
        self._under_way += zip(ids, (request.segment for request in requests), strict=True)

    def step(self) -> list[tuple[RequestId, float]]:
        if self.active > self._room:
            raise self._error
        done, self._under_way = self._under_way, []
        return [(request_id, float(np.abs(segment).max())) for request_id, segment in done]

    def abort(self, unwanted: Callable[[RequestId], bool]) -> list[RequestId]:
        aborted = [request_id for request_id, _ in self._under_way if unwanted(request_id)]
        self._under_way = [work for work in self._under_way if work[0] not in aborted]
        return aborted


class HungryNetwork:
    """Makes a note of each segment, as loud as the segment."""

    device, in_order = "cpu", False
    grid = SegmentGrid(16000, hop=1600, length=1600)

    def __init__(self, batch_size: int, room: int, error: Exception) -> None:
        self.batch_size = batch_size
        self._engine: Engine[Waveform, float] = Engine(Hungry(batch_size, room, error), add_at_once=batch_size)

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: float | None = None
    ) -> Generator[float]:
        return self._engine.generate(Request(segment.waveform) for segment in segments)

    def collect(self, options: ModelOptions) -> PeakNotes:
        return PeakNotes()


@dataclass
class PeakNotes:
    notes: list[Note] = field(default_factory=list)

    def feed(self, result: float) -> None:
        onset = len(self.notes) / 10
        self.notes.append(Note(onset, onset + 0.1, 60, round(result * 127)))

    def finish(self, samples: int) -> NetworkOutput:
        return NetworkOutput(notes=self.notes, counters={})


@dataclass
class Loader:
    """A replacement for `load_model`: the network of a machine with memory for this many segments."""

    room: int
    error: Exception
    loads_up_to: int = FULL
    sizes: list[int | None] = field(default_factory=list)

    def __call__(self, name: str, *, batch_size: int | None = None, **_: Any) -> Model:
        self.sizes.append(batch_size)
        if (batch_size or FULL) > self.loads_up_to:
            raise self.error
        network = HungryNetwork(batch_size or FULL, self.room, self.error)
        return Model(MODELS["mt3_pytorch"], cast(Any, network), "0" * 64, "Apache-2.0")


@pytest.fixture
def recording(tmp_path: Path) -> bytes:
    louder = np.linspace(0.2, 1, 48800, dtype=np.float32)
    return write(tmp_path / "tone.wav", tone(3.05, 16000) * louder, 16000).read_bytes()


@pytest.fixture
def make_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Loader], TranscriptionEngine]:
    def make(loader: Loader) -> TranscriptionEngine:
        monkeypatch.setattr("worker.engine.load_model", loader)
        return TranscriptionEngine(CheckpointStore(tmp_path), device="cpu", max_audio_seconds=60)

    return make


def notes(engine: TranscriptionEngine, model: Model, recording: bytes) -> list[Note]:
    with engine.open(model.spec.name, io.BytesIO(recording)) as audio:
        return engine.transcribe(model, audio, {}, lambda _: None).notes


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_batch_is_halved_after_each_failure_until_it_fits(
    make_engine: Callable[[Loader], TranscriptionEngine], recording: bytes, error: Exception
) -> None:
    plenty = make_engine(Loader(room=FULL, error=error))
    undisturbed = notes(plenty, plenty.load("mt3_pytorch"), recording)
    assert len(undisturbed) == 31
    loader = Loader(room=2, error=error)
    engine = make_engine(loader)
    for halvings in (0, 1):
        model = engine.load("mt3_pytorch", halvings=halvings)
        with pytest.raises(type(error)) as raised:
            notes(engine, model, recording)
        assert classify(raised.value).code == "out_of_memory"
        engine.make_room(raised.value)
    assert notes(engine, engine.load("mt3_pytorch", halvings=2), recording) == undisturbed
    assert notes(engine, engine.load("mt3_pytorch"), recording) == undisturbed, "a job that asks for no less"
    assert loader.sizes == [None, 4, 2]


def test_running_job_keeps_its_network_while_another_gets_a_smaller_one(
    make_engine: Callable[[Loader], TranscriptionEngine], recording: bytes
) -> None:
    engine = make_engine(Loader(room=FULL, error=MemoryError()))
    model = engine.load("mt3_pytorch")
    alone = notes(engine, model, recording)
    began, may_go_on, found = threading.Event(), threading.Event(), []

    def pause(_: object) -> None:
        began.set()
        may_go_on.wait(30)

    def run() -> None:
        with engine.open(model.spec.name, io.BytesIO(recording)) as audio:
            found.extend(engine.transcribe(model, audio, {}, pause).notes)

    running = threading.Thread(target=run)
    running.start()
    assert began.wait(30)
    assert notes(engine, engine.load("mt3_pytorch", halvings=3), recording) == alone
    may_go_on.set()
    running.join()
    assert found == alone


def test_the_batch_never_gets_smaller_than_one(make_engine: Callable[[Loader], TranscriptionEngine]) -> None:
    loader = Loader(room=FULL, error=MemoryError())
    make_engine(loader).load("mt3_pytorch", halvings=40)
    assert loader.sizes == [None, 1]


def test_network_that_does_not_fit_is_loaded_with_a_smaller_batch(
    make_engine: Callable[[Loader], TranscriptionEngine],
) -> None:
    loader = Loader(room=FULL, error=torch.OutOfMemoryError("CUDA out of memory."), loads_up_to=2)
    engine = make_engine(loader)
    with pytest.raises(torch.OutOfMemoryError):
        engine.load("mt3_pytorch")
    engine.load("mt3_pytorch", halvings=5)
    assert loader.sizes == [None, None, 2]


def test_a_network_without_a_batch_is_loaded_once(
    make_engine: Callable[[Loader], TranscriptionEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader(room=FULL, error=MemoryError())
    monkeypatch.setitem(MODELS, "mt3_pytorch", MODELS["basic_pitch"])
    engine = make_engine(loader)
    assert engine.load("basic_pitch") is engine.load("basic_pitch", halvings=3)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_out_of_memory_errors_of_all_libraries_are_recognized(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


def test_real_allocation_that_is_too_large_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)

"""Transkun with its published weights, against the notes and pedals of the published package."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from checkpoints.store import CheckpointStore
from mt3_infer import Model, Transcription, load_model
from mt3_infer.audio import open_audio
from mt3_infer.audio.segments import split_segments
from mt3_infer.models import TranskunOptions
from mt3_infer.models.transkun.config import GRID
from mt3_infer.symbolic.results import pack, unpack

DATA = Path(__file__).with_name("data")
TOLERANCE = 0.005  # seconds

Events = list[tuple[float, float, int, int]]


@pytest.fixture(scope="module")
def model(checkpoint_dir: Path) -> Model:
    return load_model("piano", device="cpu", store=CheckpointStore(checkpoint_dir))


Transcribe = Callable[[str], Transcription]


@pytest.fixture(scope="module")
def transcribe(model: Model, bach: Path) -> Transcribe:
    """Transcribe a recording once, as the network alone does."""

    @cache
    def once(name: str) -> Transcription:
        path = bach if name == bach.stem else DATA / f"{name}.mp3"
        return model.transcribe(path, estimates=False)

    return once


def sorted_events(events: Events) -> Events:
    return sorted(events, key=lambda event: (event[2], event[0]))


def reference(name: str) -> Events:
    arrays = np.load(DATA / f"transkun_{name}.npz")
    return sorted_events(
        list(zip(*(arrays[k].tolist() for k in ("onset", "offset", "pitch", "velocity")), strict=True))
    )


def events_of(transcription: Transcription) -> Events:
    """Its notes, and its pedals as the reference has them."""
    notes = [(note.onset, note.offset, note.pitch, note.velocity) for note in transcription.notes]
    pedals = [(pedal.onset, pedal.offset, -pedal.controller, -1) for pedal in transcription.pedals]
    return sorted_events(notes + pedals)


@pytest.mark.parametrize(
    ("name", "pedals"),
    [("bach_piano", 13), ("piano_joplin", 21), pytest.param("piano_mozart545", 0, marks=pytest.mark.soak)],
)
def test_notes_and_pedals_are_those_of_the_published_package(
    transcribe: Transcribe, name: str, pedals: int
) -> None:
    ours, theirs = events_of(transcribe(name)), reference(name)

    assert [event[2] for event in ours] == [event[2] for event in theirs]
    times = np.array([event[:2] for event in ours]) - np.array([event[:2] for event in theirs])
    assert np.abs(times).max() < TOLERANCE
    assert [e[3] for e in ours if e[2] > 0] == [e[3] for e in theirs if e[2] > 0]
    assert len({event[3] for event in theirs}) > 10
    assert sum(event[2] < 0 for event in theirs) == pedals


def test_pedals_are_in_notes_json_and_shards_give_identical_bytes(model: Model, transcribe: Transcribe) -> None:
    path = DATA / "piano_joplin.mp3"
    whole = transcribe("piano_joplin")
    pedals = json.loads(whole.to_json())["pedals"]
    assert len(pedals) == len(whole.pedals) > 3
    assert pedals[0] == {
        "onset": pytest.approx(whole.pedals[0].onset, abs=1e-5),
        "offset": pytest.approx(whole.pedals[0].offset, abs=1e-5),
        "controller": 64,
    }

    with open_audio(path, sample_rate=GRID.sample_rate) as blocks:
        waveform = np.concatenate(list(blocks))
    collector = model.network.collect(TranskunOptions(extend_to_pedal=False))
    middle = GRID.count(len(waveform)) // 2
    for first, stop in ((0, middle), (middle, GRID.count(len(waveform)))):
        begin, end = GRID.span(first, stop, len(waveform))
        segments = split_segments([waveform[begin:end]], GRID, first=first, stop=stop)
        for result in unpack(pack(list(model.network.infer(segments, TranskunOptions(extend_to_pedal=False))))):
            collector.feed(result)
    output = collector.finish(len(waveform))
    assert output.notes == whole.notes
    assert list(output.pedals) == list(whole.pedals)


def test_notes_last_as_long_as_the_pedal_on_request(model: Model, transcribe: Transcribe) -> None:
    plain = transcribe("piano_joplin")
    extended = model.transcribe(DATA / "piano_joplin.mp3", estimates=False, extend_to_pedal=True)
    assert [(n.onset, n.pitch, n.velocity) for n in extended.notes] == [
        (n.onset, n.pitch, n.velocity) for n in plain.notes
    ]
    longer = [b.offset - a.offset for a, b in zip(plain.notes, extended.notes, strict=True)]
    assert min(longer) >= 0 < max(longer)

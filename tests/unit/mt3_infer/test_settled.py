"""Settled notes: found in windows, whose union is what the whole recording has."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mt3_infer.audio.segments import Segment, SegmentGrid
from mt3_infer.models import ModelOptions
from mt3_infer.network import NetworkOutput
from mt3_infer.settled import MOST_WINDOWS, SettledNotes
from mt3_infer.symbolic.notes import Note

Begun = tuple[float, float, int]  # seconds after the segment's start, length in seconds, pitch


@dataclass
class ExactNetwork:
    """A network whose result is the notes that begin in a segment; notes that have not ended are cut off."""

    grid: SegmentGrid = field(default_factory=lambda: SegmentGrid(100, hop=200, length=200))
    device: str = "cpu"
    in_order: bool = False
    fed: int = 0

    def infer(self, segments: Iterable[Segment], options: ModelOptions, *, previous: Any = None) -> Generator[Any]:
        raise NotImplementedError

    def collect(self, options: ModelOptions) -> ExactCollector:
        return ExactCollector(self)


class ExactCollector:
    def __init__(self, network: ExactNetwork) -> None:
        self.network = network
        self.results: list[list[Begun]] = []

    def feed(self, result: list[Begun]) -> None:
        self.network.fed += 1
        self.results.append(result)

    def finish(self, samples: int) -> NetworkOutput:
        end = samples / self.network.grid.sample_rate
        notes = [
            Note(2 * number + after, min(2 * number + after + length, end), pitch, 100)
            for number, result in enumerate(self.results)
            for after, length, pitch in result
        ]
        return NetworkOutput(notes, {})


def results(seed: int, segments: int, *, longest: float) -> list[list[Begun]]:
    chance = random.Random(seed)
    return [
        [(round(chance.uniform(0, 2), 3), round(chance.uniform(0.05, longest), 3), number) for number in range(5)]
        for _ in range(segments)
    ]


def whole(content: list[list[Begun]], start: float) -> set[Note]:
    notes = ExactCollector(ExactNetwork())
    notes.results = content
    return {
        Note(round(note.onset + start, 6), round(note.offset + start, 6), note.pitch, 100)
        for note in notes.finish(200 * len(content)).notes
    }


@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("seed", range(5))
def test_every_note_is_found_once_whenever_one_looks(seed: int, first: int) -> None:
    content, chance = results(seed, 100, longest=10), random.Random(seed)
    network = ExactNetwork()
    settled = SettledNotes(network, ModelOptions(), first=first)
    sent: set[Note] = set()
    for result in content:
        settled.feed(result)
        if chance.random() < 0.3:
            found = settled.find()
            earlier = {note for note in sent if note.onset >= found.begin and note.offset <= found.end}
            assert earlier <= set(found.notes), "a settled note stays"
            sent |= set(found.notes)
            settled.confirm(found)
    sent |= set(settled.find().notes)
    end = 2 * (first + len(content) - 1)
    assert sent == {note for note in whole(content, 2 * first) if note.offset <= end}


def test_notes_that_still_sound_are_not_settled() -> None:
    settled = SettledNotes(ExactNetwork(), ModelOptions())
    settled.feed([(0.5, 0.5, 60), (1.0, 3.5, 64)])
    assert settled.find().notes == [], "the newest segment is not settled yet"
    settled.feed([])
    assert settled.find().notes == [Note(0.5, 1.0, 60, 100)]
    settled.feed([])
    settled.feed([])
    assert settled.find().notes == [Note(0.5, 1.0, 60, 100), Note(1.0, 4.5, 64, 100)]


def test_the_cost_of_looking_does_not_grow_with_the_recording() -> None:
    network = ExactNetwork()
    settled = SettledNotes(network, ModelOptions())
    costs = []
    for result in results(1, 1000, longest=1):
        settled.feed(result)
        before = network.fed
        settled.confirm(settled.find())
        costs.append(network.fed - before)
    assert max(costs[500:]) == max(costs[:100]) <= 30


def test_memory_is_bounded_if_nothing_is_confirmed() -> None:
    settled = SettledNotes(ExactNetwork(), ModelOptions())
    content = results(1, 2000, longest=1)
    for result in content:
        settled.feed(result)
    found = settled.find()
    assert len(settled._results) <= (MOST_WINDOWS + 2) * 12 + 8
    late = {note for note in whole(content, 0) if note.onset >= found.begin and note.offset <= found.end}
    assert set(found.notes) == late

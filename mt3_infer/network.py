"""The interface of a network: segments in, results out, notes from all results."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from mt3_infer.symbolic.notes import Note, Pedal

if TYPE_CHECKING:
    from mt3_infer.audio.segments import Segment, SegmentGrid
    from mt3_infer.models import ModelOptions

ResultT = TypeVar("ResultT")
ResultIn = TypeVar("ResultIn", contravariant=True)


@dataclass(frozen=True)
class NetworkOutput:
    """Notes that a network found in a recording.

    Attributes:
        notes: sorted, see `mt3_infer.symbolic.notes.sort_notes`.
        counters: odd output that was counted instead of raised, as `{"invalid_tokens": 2}`.
        pedals: sorted by onset; empty for networks that detect none.
        estimator: version of what estimated velocities and confidence; empty if the notes are the network's alone.
    """

    notes: list[Note]
    counters: Mapping[str, int]
    pedals: Sequence[Pedal] = ()
    estimator: str = ""


class Collector(Protocol[ResultIn]):
    """Makes notes of a network's results for the segments of one recording."""

    def feed(self, result: ResultIn) -> None:
        """Take the next segment's result; the first one is that of segment 0."""

    def finish(self, samples: int) -> NetworkOutput:
        """Return the notes of the whole recording, which has so many samples at the network's rate."""


class Network(Protocol[ResultT]):
    """A network on a device, ready to run; the same one may serve several threads.

    It is in two halves, so that several workers can share a long recording: `infer` is the work, `collect` takes
    no time and needs the results in order. `mt3_infer.symbolic.results` keeps them in between.
    """

    @property
    def device(self) -> str:
        """The device that it runs on."""

    @property
    def grid(self) -> SegmentGrid:
        """The grid by which it splits a recording into segments."""

    @property
    def in_order(self) -> bool:
        """True if inference of a segment needs the result of the one before it."""

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: ResultT | None = None
    ) -> Generator[ResultT]:
        """Yield the results of consecutive segments, in order. Closing the generator aborts the rest.

        Args:
            segments: consumed on the calling thread, as slots become free.
            options: of the type that the model's row names.
            previous: the result of the segment before the first of these; None at the start of a recording, and
                ignored if `in_order` is false.
        """

    def collect(self, options: ModelOptions) -> Collector[ResultT]:
        """Return a collector for one recording, with the options that `infer` was given."""

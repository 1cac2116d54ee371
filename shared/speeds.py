"""Measured speeds: how long workers take for an item, from the attempts that succeeded most recently.

Items of one worker process share its processor, so an attempt beside three others takes about three times as long
as alone: with four at a time, a process does a third more than with one. Attempts are compared as if each had run
alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

LOAD_EXPONENT = 0.8  # an attempt beside k - 1 others takes k ** 0.8 times as long: 3.0 times for four
RECENT = 0.93  # the weight of an attempt, compared with the one that ended after it
BYTES_PER_SECOND = {  # of recordings with these suffixes, as long as nothing is measured
    **dict.fromkeys((".wav", ".aif", ".aiff", ".w64", ".au", ".caf"), 176_400.0),
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".avi", ".webm"), 200_000.0),
    ".flac": 90_000.0,
    ".opus": 12_000.0,
}
USUAL_BYTES_PER_SECOND = 20_000.0
PRIOR_SECONDS = 60.0  # of audio: how much the numbers above weigh against what is measured


@dataclass(frozen=True)
class Sample:
    """An attempt that succeeded.

    Attributes:
        began, ended: seconds on any common clock.
        audio_seconds: the length of what it transcribed.
        upload_bytes: the size of the recording, unless the item was a part of it.
    """

    model: str
    worker: str
    began: float
    ended: float
    audio_seconds: float
    suffix: str = ""
    upload_bytes: int | None = None

    @property
    def is_part(self) -> bool:
        """True for a part of a long recording."""
        return self.upload_bytes is None


@dataclass(frozen=True)
class Pace:
    """The seconds that an item takes on a worker by itself: `overhead`, and `factor` for each second of audio."""

    overhead: float
    factor: float

    def seconds(self, audio_seconds: float, *, together: float = 1.0) -> float:
        """Return how long an item takes if its process runs this number of items together."""
        return (self.overhead + self.factor * audio_seconds) * slowdown(together)


@dataclass(frozen=True)
class Speeds:
    """Hold what was measured.

    Attributes:
        paces: by model.
        bytes_per_second: of recordings, by the suffix of their file names.
    """

    paces: Mapping[str, Pace] = field(default_factory=dict)
    bytes_per_second: Mapping[str, float] = field(default_factory=dict)

    def pace(self, model: str) -> Pace | None:
        """Return a model's pace; the mean of others if it was not measured; None if nothing was."""
        if model in self.paces or not self.paces:
            return self.paces.get(model)
        known, number = self.paces.values(), len(self.paces)
        return Pace(sum(p.overhead for p in known) / number, sum(p.factor for p in known) / number)

    def audio_seconds(self, filename: str | None, upload_bytes: int) -> float:
        """Return the estimated length of a recording that no worker has opened yet."""
        suffix = suffix_of(filename)
        return upload_bytes / self.bytes_per_second.get(suffix, _usual_bytes(suffix))


def slowdown(together: float) -> float:
    """Return how much slower each of some items runs that share a process."""
    return float(max(1.0, together) ** LOAD_EXPONENT)


def suffix_of(filename: str | None) -> str:
    """Return the suffix of a file name in lower case, with its period."""
    return PurePath(filename or "").suffix.lower()


def measure(
    samples: Sequence[Sample],
    *,
    running: Iterable[tuple[str, float]] = (),
    together: float = float("inf"),
    reported: Mapping[str, float] | None = None,
) -> Speeds:
    """Return the speeds that attempts had.

    Args:
        samples: latest end first.
        running: worker and beginning of the attempts that have not ended.
        together: how many items a process runs at a time; others that have begun are preempted.
        reported: by model, seconds of audio per second, for models without samples.
    """
    beside = _Concurrency(samples, running)
    points: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    whole = {sample.model for sample in samples if not sample.is_part}
    for sample in samples:
        if sample.is_part and sample.model in whole:
            continue  # parts of long recordings are preempted: their time is not all their own
        alone = (sample.ended - sample.began) / slowdown(min(together, beside.mean(sample)))
        weight = RECENT ** len(points[sample.model])
        points[sample.model].append((sample.audio_seconds, alone, weight))
    paces = {model: Pace(0.0, 1 / factor) for model, factor in (reported or {}).items() if factor > 0}
    paces |= {model: _fit(found) for model, found in points.items()}
    return Speeds(paces, _measure_bytes(samples))


class _Concurrency:
    """How many attempts a worker ran at a time."""

    def __init__(self, samples: Sequence[Sample], running: Iterable[tuple[str, float]]) -> None:
        self._spans: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for sample in samples:
            self._spans[sample.worker].append((sample.began, sample.ended))
        for worker, began in running:
            self._spans[worker].append((began, float("inf")))

    def mean(self, sample: Sample) -> float:
        """Return the mean number of attempts during this one, with itself."""
        length = sample.ended - sample.began
        if length <= 0:
            return 1.0
        spans = self._spans[sample.worker]
        shared = sum(max(0.0, min(end, sample.ended) - max(start, sample.began)) for start, end in spans)
        return max(1.0, shared / length)


def _fit(points: Sequence[tuple[float, float, float]]) -> Pace:
    """Fit a line to audio seconds, seconds taken and weights: neither its start nor its slope is negative."""
    weights = sum(weight for *_, weight in points)
    mean_audio = sum(audio * weight for audio, _, weight in points) / weights
    mean_taken = sum(taken * weight for _, taken, weight in points) / weights
    spread = sum(weight * (audio - mean_audio) ** 2 for audio, _, weight in points)
    if mean_audio <= 0:
        return Pace(mean_taken, 0.0)
    through_origin = mean_taken / mean_audio
    if spread <= 1e-6 * mean_audio**2 * weights:
        return Pace(0.0, through_origin)
    common = sum(weight * (audio - mean_audio) * (taken - mean_taken) for audio, taken, weight in points)
    factor = min(max(0.0, common / spread), through_origin)
    return Pace(max(0.0, mean_taken - factor * mean_audio), factor)


def _measure_bytes(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the mean bytes per second of recordings, by suffix."""
    sizes: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for sample in samples:
        if sample.upload_bytes is not None:
            sizes[sample.suffix][0] += sample.upload_bytes
            sizes[sample.suffix][1] += sample.audio_seconds
    return {
        suffix: (size + PRIOR_SECONDS * _usual_bytes(suffix)) / (seconds + PRIOR_SECONDS)
        for suffix, (size, seconds) in sizes.items()
    }


def _usual_bytes(suffix: str) -> float:
    return BYTES_PER_SECOND.get(suffix, USUAL_BYTES_PER_SECOND)

"""A model: joins the stages, recording → segments → network → results → notes, with progress and a way to cancel.

Nothing heavy is imported before the first transcription.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias

from mt3_infer.errors import AudioWarning, InvalidOptionError
from mt3_infer.models import ModelOptions, ModelSpec
from mt3_infer.network import Network, NetworkOutput
from mt3_infer.symbolic.notes import play_alone
from mt3_infer.transcription import Provenance, Transcription

if TYPE_CHECKING:
    from mt3_infer.audio import AudioStream, Waveform
    from mt3_infer.evidence.collector import EvidenceCollector
    from mt3_infer.evidence.recorder import EvidenceRecorder, PosteriorNetwork

    class SupportsArray(Protocol):
        """A NumPy array, a tensor, or anything else that NumPy can read as an array."""

        @property
        def __array__(self) -> Callable[..., Any]: ...

    Audio: TypeAlias = str | PathLike[str] | BinaryIO | SupportsArray | AudioStream

DISTRIBUTION = "mt3-infer-service"

DEFAULT_MODEL = "mt3_pytorch"


@dataclass(frozen=True)
class Progress:
    """Progress of a transcription, in seconds of audio; the total is None if unknown."""

    seconds_done: float
    seconds_total: float | None


def no_posteriors() -> None:
    """Stand for Basic Pitch where it is not available."""


@dataclass(frozen=True)
class Model:
    """A network with what is known about its weights.

    `posteriors` opens Basic Pitch, whose posteriors are evidence for the notes of every network.
    """

    spec: ModelSpec
    network: Network[Any]
    weights_sha256: str
    license: str
    posteriors: Callable[[], PosteriorNetwork | None] = no_posteriors

    def transcribe(
        self,
        audio: Audio,
        sr: int | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        on_result: Callable[[Any], None] | None = None,
        max_seconds: float | None = None,
        estimates: bool = True,
        **options: Any,
    ) -> Transcription:
        """Transcribe one recording; see `mt3_infer.transcribe` for arguments and errors.

        Args:
            on_result: called with the network's result for each segment, in order; see `mt3_infer.settled`.
        """
        from mt3_infer.audio.segments import split_segments
        from mt3_infer.audio.stream import SILENT
        from mt3_infer.inputs import open_recording

        checked = self.spec.check_options(options)
        check_progress(progress)
        started = time.monotonic()
        grid = self.network.grid
        collector = self.collect(checked)
        plan = self.plan_evidence() if estimates else None
        recorder = None if plan is None else self.record_evidence(**plan)
        with open_recording(audio, sr, sample_rate=self.spec.sample_rate, max_seconds=max_seconds) as stream:
            metered = _Meter(stream)
            blocks = recorder.passing(metered) if recorder is not None else iter(metered)
            with closing(self.network.infer(split_segments(blocks, grid), checked)) as results:
                for done, result in enumerate(results, start=1):
                    collector.feed(result)
                    if on_result is not None:
                        on_result(result)
                    if progress is not None:
                        seconds = min(done * grid.hop, metered.samples) / grid.sample_rate
                        progress(Progress(seconds, stream.duration))
        if recorder is not None:
            collector.add(recorder.evidence)
        output = collector.finish(metered.samples)
        warnings = [*stream.warnings]
        if stream.is_silent:
            warnings.append(AudioWarning("silent", SILENT))
        return self.with_provenance(
            output,
            stream.seconds,
            checked,
            seconds_taken=time.monotonic() - started,
            warnings=warnings,
        )

    def collect(self, options: ModelOptions) -> EvidenceCollector:
        """Return a collector of the results and the evidence of one recording."""
        from mt3_infer.evidence.collector import EvidenceCollector

        return EvidenceCollector(self.spec, self.network, options)

    def plan_evidence(self) -> dict[str, Any] | None:
        """Decide which evidence is recorded, once for a recording; None if it is none.

        Returns:
            Arguments of `record_evidence`, which may travel as JSON.
        """
        from mt3_infer.evidence.collector import HasPosteriors
        from mt3_infer.evidence.recorder import is_supported

        if not is_supported(self.network.grid.sample_rate):
            return None
        return {"posteriors": not isinstance(self.network, HasPosteriors) and self.posteriors() is not None}

    def record_evidence(
        self, *, posteriors: bool, position: int = 0, windows: Sequence[int] | None = None
    ) -> EvidenceRecorder:
        """Return a recorder of evidence for samples at the network's rate.

        Args:
            posteriors: True to use Basic Pitch, if it is available here.
            position, windows: see `EvidenceRecorder`.
        """
        from mt3_infer.evidence.recorder import EvidenceRecorder

        network = self.posteriors() if posteriors else None
        return EvidenceRecorder(self.network.grid.sample_rate, network, position=position, windows=windows)

    def with_provenance(
        self,
        output: NetworkOutput,
        duration: float,
        options: ModelOptions,
        *,
        seconds_taken: float,
        warnings: Iterable[AudioWarning] = (),
    ) -> Transcription:
        """Add beats, provenance and warnings to the notes of a recording that lasts `duration` seconds.

        If the options name a single instrument, all notes are given to it.
        """
        from mt3_infer.symbolic.beats import find_grid

        program = options.single_program
        notes = output.notes if program is None else play_alone(output.notes, program)
        return Transcription(
            notes=notes,
            duration=duration,
            provenance=Provenance(
                model=self.spec.name,
                weights_sha256=self.weights_sha256,
                license=self.license,
                library_version=library_version(),
                device=self.network.device,
                seconds_taken=round(seconds_taken, 3),
                options=options.model_dump(),
                counters=dict(output.counters),
                estimator=output.estimator,
            ),
            warnings=tuple(warnings),
            pedals=tuple(output.pedals),
            grid=find_grid(notes),
        )


class _Meter:
    """Passes blocks on and counts their samples."""

    def __init__(self, blocks: Iterable[Waveform]) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[Waveform]:
        for block in self._blocks:
            self.samples += len(block)
            yield block


def check_progress(progress: Any) -> None:
    """Raise InvalidOptionError if it is no function."""
    if progress is not None and not callable(progress):
        raise InvalidOptionError("progress must be a function that takes a Progress, or None.")


def library_version() -> str:
    """Return the version of the installed distribution, or "unknown" in a bare source tree."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"

"""Decode a recording of any common format to mono blocks at the sample rate that a network takes.

Files are untrusted: length is counted while decoding, in seconds and in bytes, because a header can claim
anything. Memory stays the same however long the recording. Audio is placed by the file's own clock:
missing packets become silence, so a note after damage is not early. This module runs in a process of its own
(`mt3_infer.audio.isolation`), since native code may crash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from mt3_infer.audio.clocks import seconds_of
from mt3_infer.audio.containers import MISSING_SECONDS, OpenPart
from mt3_infer.audio.files import File
from mt3_infer.audio.headers import survey
from mt3_infer.audio.levels import Mixer, OffsetRemover, Raw, Scale, Waveform, gather, level_warnings
from mt3_infer.audio.resampling import refuse_longer, resample
from mt3_infer.audio.timeline import COARSE_SECONDS, TOLERANCE_SECONDS, Report, Timeline
from mt3_infer.errors import AudioError, AudioTooLongError, AudioWarning, EmptyAudioError, TruncatedAudioError

MEASURED = frozenset(["avi", "ogg"])
"""Containers whose length FFmpeg takes from what is there."""
BYTES_PER_SECOND = 48_000 * 8 * 4
"""Decoded bytes allowed for each second allowed: 8 channels at 48 kHz, or 2 at 192 kHz, of 4 bytes."""


@dataclass
class Recording:
    """A recording that is being decoded; `blocks` may be run through once.

    Attributes:
        duration: seconds that the file states, or None.
        seconds: length of what was decoded so far.
        peak: largest absolute sample that was decoded so far.
        warnings: what was mended or passed over, complete at the end.
    """

    file: File
    sample_rate: int
    max_seconds: float | None = None
    duration: float | None = None
    seconds: float = 0.0
    peak: float = 0.0
    warnings: list[AudioWarning] = field(default_factory=list)
    on_sound: Callable[[float], None] = lambda seconds: None

    def __post_init__(self) -> None:
        if self.file.size == 0:
            raise EmptyAudioError("The file is empty (0 bytes). Check that it was saved or uploaded completely.")
        self._parts = survey(self.file)
        self._opened = OpenPart.open(self.file, self._parts[0])
        self.duration = self._opened.duration if len(self._parts) == 1 else None
        if self._opened.is_exact:
            refuse_longer(self._opened.duration, self.max_seconds)
        self._mixer = Mixer(self._find_divisor())
        self._remover = OffsetRemover()

    def blocks(self) -> Iterator[Waveform]:
        """Yield float32 blocks of shape (S,), of about a second each.

        Raises:
            AudioError: the recording turns out to be empty, cut off, too long or broken.
        """
        yield from resample(self._mono(), self.sample_rate)
        if self.seconds == 0:
            raise EmptyAudioError("The recording lasts 0 seconds. Check that it was saved completely.")
        if not self._mixer.usable:
            raise AudioError("All samples are NaN or infinite, not numbers. Export the recording again.")
        self.warnings.extend(level_warnings(self._mixer, self._remover, self.seconds))

    def _find_divisor(self) -> float | None:
        """Look through all samples of a file whose type does not determine their scale."""
        kind = self._opened.raw_kind
        if kind is None:
            return None
        scale = Scale()
        for part in self._parts:
            opened = OpenPart.open(self.file, part)
            for _, raw in opened.frames(Report(), math.inf):
                scale.add(raw.samples)
                self.on_sound(len(raw.samples) / raw.rate)
        divisor = scale.find_float_divisor() if kind == "f" else scale.find_integer_divisor(32)
        return None if kind == "i" and divisor == 2.0**31 else divisor

    def _mono(self) -> Iterator[tuple[int, Waveform]]:
        for raw in gather(self._sound()):
            self.seconds += len(raw.samples) / raw.rate
            refuse_longer(self.seconds, self.max_seconds)
            waveform = self._remover.remove(self._mixer.mix(raw), raw.rate)
            self.peak = max(self.peak, float(np.abs(waveform).max(initial=0)))
            self.on_sound(len(raw.samples) / raw.rate)
            yield raw.rate, waveform

    def _sound(self) -> Iterator[Raw]:
        limit = math.inf if self.max_seconds is None else (self.max_seconds + 1) * BYTES_PER_SECOND
        total = done = 0.0
        for number, part in enumerate(self._parts):
            opened = self._opened
            if number:
                try:
                    opened = OpenPart.open(self.file, part)
                except AudioError as error:
                    rest = f"from {done:.1f} s on ({part.end - part.start:,} bytes)"
                    message = f"The rest of the file, {rest}, could not be read. {error}"
                    self.warnings.append(AudioWarning("damaged", message))
                    continue
            report = Report()
            is_coarse = "mpeg" in opened.names
            timeline = Timeline(report, COARSE_SECONDS if is_coarse else TOLERANCE_SECONDS)
            for at, raw in opened.frames(report, limit - total):
                for placed in timeline.place(at, raw):
                    total += placed.samples.nbytes
                    if total > limit:
                        raise AudioTooLongError(
                            f"The recording is too long: it decodes to more than {self.max_seconds:g} s of audio."
                            " Split it into shorter files."
                        )
                    yield placed
            self.warnings.extend(AudioWarning(*warning) for warning in part.warnings)
            self.warnings.extend(judge_end(opened, report, timeline, started_at=done))
            done += timeline.seconds
        if len(self._parts) > 1:
            detail = f"The file contains {len(self._parts)} recordings in a row: they were joined."
            self.warnings.append(AudioWarning("joined", detail))


def judge_end(opened: OpenPart, report: Report, timeline: Timeline, *, started_at: float) -> list[AudioWarning]:
    """Compare what was decoded with what the file states for this track, end time with end time.

    Raises:
        TruncatedAudioError: the end of the file is missing.
    """
    missing = opened.part.missing_seconds
    expected = None
    if opened.is_stated and opened.duration is not None:
        start = seconds_of(opened.track.start_time, opened.track.time_base) or 0.0
        # Of Matroska the duration counts from zero, of other containers from the track's first packet.
        begins = 0.0 if "matroska" in opened.names else start
        expected = opened.duration if "avi" in opened.names else begins + opened.duration - opened.origin
        missing = max(missing, expected - timeline.seconds)
    short = missing > MISSING_SECONDS
    ends_whole = report.bad_at_end > 2 or report.bad > report.bad_at_end
    if short and (opened.is_cut() or (opened.is_exact and not ends_whole)):
        raise TruncatedAudioError(
            f"The recording is cut off: the header states {timeline.seconds + missing:.1f} s,"
            f" but only {timeline.seconds:.1f} s are present. Copy or upload it again."
        )
    if opened.part.is_cut and (expected is None or not opened.names.isdisjoint(MEASURED)):
        raise TruncatedAudioError(
            f"The recording is cut off after {timeline.seconds:.1f} s: its end is missing."
            " Copy or upload it again."
        )
    return _describe(opened, report, timeline, missing if short else 0.0, started_at=started_at)


def _describe(
    opened: OpenPart, report: Report, timeline: Timeline, short: float, *, started_at: float
) -> list[AudioWarning]:
    warnings = []
    silence = report.missing if report.gaps else 0.0
    places = f" and {report.gaps - 1} more places" if report.gaps > 1 else ""
    ends_inside = report.bad == report.bad_at_end <= 2 if report.bad else opened.is_cut()
    if ends_inside and not silence and not short:
        at = started_at + timeline.seconds
        warnings.append(
            AudioWarning("cut_off", f"The file ends inside a frame at {at:.1f} s: its end may be missing.")
        )
    elif report.bad:
        at = started_at + min(t for t in (report.damaged_at, report.missing_at) if t is not None)
        lost = f": {silence:.1f} s of audio were lost and replaced with silence" if silence else ""
        rest = f" The last {short:.1f} s that the header states could not be read." if short else ""
        warnings.append(AudioWarning("damaged", f"The file is damaged at {at:.1f} s{places}{lost}.{rest}"))
    elif report.gaps:
        at = started_at + (report.missing_at or 0.0)
        detail = f"Audio is missing at {at:.1f} s{places}: {silence:.1f} s in total were replaced with silence."
        warnings.append(AudioWarning("missing_sound", detail))
    if short and not report.bad:
        stated = timeline.seconds + short
        detail = f"The header states {stated:.1f} s of audio, but only {timeline.seconds:.1f} s are present."
        warnings.append(AudioWarning("wrong_length", detail))
    if report.jumps:
        times = "once" if report.jumps == 1 else f"{report.jumps} times"
        detail = f"The time stamps jump {times}: the audio after a jump was appended without a gap."
        warnings.append(AudioWarning("clock_jump", detail))
    return warnings

"""Basic Pitch in onnxruntime: windows in, posteriors and then notes out.

The constant-Q front end is part of the network, which runs on the CPU. It takes the recording in windows of 2 s
that overlap by 30 frames; of each window the outermost 15 frames are left away.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from mt3_infer.audio import Waveform
from mt3_infer.audio.segments import Segment
from mt3_infer.errors import InvalidOptionError, WeightsError
from mt3_infer.inference.engine import Engine, Request, SingleStep
from mt3_infer.inference.threads import available_cpus
from mt3_infer.models import BasicPitchOptions, ModelOptions
from mt3_infer.models.basic_pitch.config import (
    EDGE_FRAMES,
    GRID,
    HOP,
    LOWEST_PITCH,
    SAMPLE_RATE,
    WINDOW_FRAMES,
    WINDOW_HOP,
    WINDOW_SAMPLES,
    Posteriors,
)
from mt3_infer.models.basic_pitch.notes import FrameNote, NoteCreator
from mt3_infer.network import NetworkOutput
from mt3_infer.symbolic.notes import Note, sort_notes

onnxruntime.disable_telemetry_events()  # some builds report to their maker

# Named by the export. There is a third output, "StatefulPartitionedCall:0", of contours, which is not used.
INPUT = "serving_default_input_2:0"
FRAMES = "StatefulPartitionedCall:1"
ONSETS = "StatefulPartitionedCall:2"

WINDOW_DRIFT = HOP / SAMPLE_RATE * (WINDOW_FRAMES - WINDOW_SAMPLES / HOP) + 0.0018
"""Seconds by which 172 frames run ahead of the recording, as published.

Each window gives 142 frames for 36164 samples, which are 141.27 frames. That drift is exactly 10.327 ms in
172 frames; the published figure, whose last term was found by trial, is 10.326 ms.
"""


def check_device(*, device: str = "auto") -> None:
    """Raise InvalidOptionError for a device other than the CPU."""
    if device not in ("auto", "cpu"):
        raise InvalidOptionError(f"basic_pitch runs on the CPU: leave out device={device!r}, or pass 'cpu'.")


def load(checkpoint: Path, *, device: str = "auto") -> BasicPitch:
    """Open `nmp.onnx` in a directory, or an ONNX file itself.

    Raises:
        InvalidOptionError: a device other than the CPU is asked for.
        WeightsError: the file is damaged, or holds another network.
    """
    check_device(device=device)
    return BasicPitch(checkpoint / "nmp.onnx" if checkpoint.is_dir() else checkpoint)


class BasicPitch:
    """The network in one onnxruntime session, which several threads may use at once."""

    device = "cpu"
    grid = GRID
    in_order = False

    def __init__(self, onnx_file: Path, *, threads: int | None = None) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads or available_cpus()
        try:
            self._session = onnxruntime.InferenceSession(onnx_file, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no class of their own in common
            raise WeightsError(f"{onnx_file} is no ONNX file, or a damaged one: download it again.") from error
        if not self._is_basic_pitch():
            raise WeightsError(f"{onnx_file} holds another network, not basic_pitch: pass its nmp.onnx.")
        # One at a time, so that what a recording gives does not depend on what runs beside it: the last digits of
        # onnxruntime's results are others in other batches. A batch of four would be a sixth faster.
        self._engine: Engine[Waveform, Posteriors] = Engine(
            SingleStep(self._infer_windows, slots=2), add_at_once=1
        )

    def infer(
        self, segments: Iterable[Segment], options: ModelOptions, *, previous: Posteriors | None = None
    ) -> Generator[Posteriors]:
        """See `Network`; a result is the posteriors of a window."""
        return self._engine.generate(Request(segment.waveform) for segment in segments)

    def collect(self, options: ModelOptions) -> BasicPitchCollector:
        """See `Network`."""
        assert isinstance(options, BasicPitchOptions)
        return BasicPitchCollector(options)

    def result_posteriors(self, result: Posteriors) -> Posteriors:
        """See `mt3_infer.evidence.collector.HasPosteriors`."""
        return result

    def _infer_windows(self, windows: Sequence[Waveform]) -> list[Posteriors]:
        return [self.posteriors(window[np.newaxis]) for window in windows]

    def _is_basic_pitch(self) -> bool:
        inputs = {node.name: node.shape[1:] for node in self._session.get_inputs()}
        outputs = {node.name for node in self._session.get_outputs()}
        return inputs == {INPUT: [WINDOW_SAMPLES, 1]} and outputs >= {FRAMES, ONSETS}

    def posteriors(self, windows: Waveform) -> Posteriors:
        """Run the network on windows of shape (N, 43844).

        Returns:
            Frame and onset posteriors, each (N × 142, 88), edges left away.
        """
        frames, onsets = self._session.run(
            [FRAMES, ONSETS],
            {INPUT: windows[:, :, np.newaxis]},
        )  # each (N, 172, 88)
        kept = slice(EDGE_FRAMES, -EDGE_FRAMES)
        return frames[:, kept].reshape(-1, frames.shape[2]), onsets[:, kept].reshape(-1, onsets.shape[2])


class BasicPitchCollector:
    """Posteriors of the windows of a recording → notes."""

    def __init__(self, options: BasicPitchOptions) -> None:
        self._creator = NoteCreator(
            onset_threshold=options.onset_threshold,
            frame_threshold=options.frame_threshold,
            minimum_frames=round(options.minimum_note_length * SAMPLE_RATE / HOP),
        )

    def feed(self, result: Posteriors) -> None:
        """Take the next window's posteriors."""
        frames, onsets = result
        self._creator.feed(frames, onsets)

    def finish(self, samples: int) -> NetworkOutput:
        """Return the notes of the recording."""
        events = self._creator.finish(count_frames(samples))
        return NetworkOutput(notes=sort_notes(_note(event) for event in events), counters={})


def count_frames(samples: int) -> int:
    """Return how many frames the windows give for a recording of so many samples.

    The published code counts 86 a second, and so leaves off what the drift of its frames adds up to: the last
    0.7 % of every recording, 72 s of three hours. Before that the notes are the same.
    """
    return samples * (WINDOW_FRAMES - 2 * EDGE_FRAMES) // WINDOW_HOP


def frame_time(frame: int) -> float:
    """Return where a frame begins, in seconds."""
    return frame * HOP / SAMPLE_RATE - frame // WINDOW_FRAMES * WINDOW_DRIFT


def _note(event: FrameNote) -> Note:
    return Note(
        onset=frame_time(event.start),
        offset=frame_time(event.end),
        pitch=event.key + LOWEST_PITCH,
        velocity=max(1, round(127 * event.amplitude)),  # MIDI reads velocity 0 as the end of a note
    )

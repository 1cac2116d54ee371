"""Note creation, in posteriorgrams drawn by hand, and against a slow twin written frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mt3_infer.models.basic_pitch.notes import PITCHES, RELEASE_FRAMES, NoteCreator

Events = set[tuple[int, int, int, float]]


def create(
    frames: NDArray[np.float32], onsets: NDArray[np.float32], pieces: int = 1, minimum_frames: int = 11
) -> Events:
    creator = NoteCreator(onset_threshold=0.5, frame_threshold=0.3, minimum_frames=minimum_frames)
    for frame_piece, onset_piece in zip(
        np.array_split(frames, pieces), np.array_split(onsets, pieces), strict=True
    ):
        creator.feed(frame_piece, onset_piece)
    return {(e.start, e.end, e.key, round(e.amplitude, 5)) for e in creator.finish(len(frames))}


def quiet(n_frames: int = 100) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.zeros((n_frames, PITCHES), np.float32), np.zeros((n_frames, PITCHES), np.float32)


def test_a_note_lasts_from_its_onset_to_the_end_of_sounding() -> None:
    frames, onsets = quiet()
    frames[20:60, 40] = 0.8
    onsets[20, 40] = 0.9
    assert create(frames, onsets) == {(20, 60, 40, 0.8)}


def test_a_short_dip_does_not_end_a_note_and_a_long_one_does() -> None:
    frames, onsets = quiet(150)
    frames[20:120, 40] = 0.4  # coming back from the dip is too small a rise for an onset
    onsets[20, 40] = 0.9
    frames[50 : 50 + RELEASE_FRAMES - 1, 40] = 0.25
    assert {(start, end) for start, end, _, _ in create(frames, onsets)} == {(20, 120)}
    frames[50 : 50 + RELEASE_FRAMES, 40] = 0.25
    assert (20, 50) in {(start, end) for start, end, _, _ in create(frames, onsets)}


def test_a_note_struck_again_ends_where_the_next_begins() -> None:
    frames, onsets = quiet()
    frames[20:80, 40] = 0.8
    onsets[[20, 50], 40] = 0.9
    assert {(start, end) for start, end, _, _ in create(frames, onsets)} == {(20, 50), (50, 80)}


def test_a_rise_of_the_frames_is_an_onset_too() -> None:
    frames, onsets = quiet()
    frames[20:60, 40] = frames[20:60, 60] = 0.8
    onsets[20, 40] = 0.9
    assert (20, 60, 60, 0.8) in create(frames, onsets)


def test_sounding_without_an_onset_is_found_in_the_second_pass() -> None:
    frames, onsets = quiet()
    frames[20:60, 40] = np.concatenate([np.linspace(0.1, 0.8, 20), np.linspace(0.8, 0.1, 20)])
    frames[80, 10] = onsets[80, 10] = 0.9  # a rise beside which the other is none
    found = {(key, start, end) for start, end, key, _ in create(frames, onsets)}
    assert len(found) == 1
    (key, start, end) = found.pop()
    assert key == 40
    assert 20 < start < 30 < 50 < end < 60


def test_short_notes_are_left_out() -> None:
    frames, onsets = quiet()
    frames[20:31, 40] = 0.8
    onsets[20, 40] = 0.9
    assert create(frames, onsets, minimum_frames=11) == set()
    assert create(frames, onsets, minimum_frames=5) == {(20, 31, 40, 0.8)}


@pytest.mark.parametrize("n_frames", [0, 1, 2, 3, 50])
def test_silence_has_no_notes(n_frames: int) -> None:
    assert create(*quiet(n_frames)) == set()


@pytest.mark.parametrize("seed", range(6))
def test_notes_are_those_of_the_slow_twin_however_the_recording_is_cut(seed: int) -> None:
    frames, onsets = random_music(np.random.default_rng(seed))
    expected = slow_twin(frames, onsets, 0.5, 0.3, 11)
    assert len(expected) > 50
    assert create(frames, onsets) == expected
    assert create(frames, onsets, pieces=7) == expected


def test_long_recordings_are_handled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, onsets = random_music(np.random.default_rng(9))
    expected = create(frames, onsets)
    monkeypatch.setattr("mt3_infer.models.basic_pitch.notes.BLOCK_FRAMES", 64)
    assert create(frames, onsets) == expected


def random_music(chance: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Noise, blurred in time, so that notes start, waver and touch each other and both ends."""
    noise = chance.random((500, PITCHES))
    blurred = np.apply_along_axis(lambda column: np.convolve(column, np.ones(9) / 9, "same"), 0, noise)
    frames = np.clip((blurred - 0.45) * 4, 0, 1)
    onsets = np.where(chance.random(frames.shape) < 0.02, chance.random(frames.shape), 0.05 * frames)
    return frames.astype(np.float32), onsets.astype(np.float32)


def slow_twin(
    frames: NDArray[np.float32], onsets: NDArray[np.float32], onset_at: float, sound_at: float, minimum: int
) -> Events:
    """The same rules, one frame after another, on the whole recording at once."""
    n_frames = len(frames)
    wide = frames.astype(np.float64)
    rise = np.zeros_like(wide)
    for t in range(2, n_frames):
        rise[t] = np.maximum(np.minimum(wide[t] - wide[t - 1], wide[t] - wide[t - 2]), 0)
    strength = np.maximum(onsets, onsets.max() * rise / rise.max())
    left = wide.copy()
    events: Events = set()

    def take(key: int, t: int) -> None:
        left[t, max(key - 1, 0) : key + 2] = 0

    def add(start: int, end: int, key: int) -> None:
        if end - start > minimum:
            events.add((start, end, key, round(float(frames[start:end, key].mean()), 5)))

    for t in range(n_frames - 2, 0, -1):
        for key in range(PITCHES - 1, -1, -1):
            peak = strength[t, key]
            if peak < onset_at or peak <= strength[t - 1, key] or peak <= strength[t + 1, key]:
                continue
            i, low = t + 1, 0
            while i < n_frames - 1 and low < 11:
                low = low + 1 if left[i, key] < sound_at else 0
                i += 1
            if i - low - t > minimum:
                for frame in range(t, i - low):
                    take(key, frame)
            add(t, i - low, key)
    while left.max() > sound_at:
        middle, key = divmod(int(left.argmax()), PITCHES)
        left[middle, key] = 0
        i, low = middle + 1, 0
        while i < n_frames - 1 and low < 11:
            low = low + 1 if left[i, key] < sound_at else 0
            take(key, i)
            i += 1
        end = i - 1 - low
        i, low = middle - 1, 0
        while i > 0 and low < 11:
            low = low + 1 if left[i, key] < sound_at else 0
            take(key, i)
            i -= 1
        add(i + 1 + low, end, key)
    return events

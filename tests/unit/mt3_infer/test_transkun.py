"""Transkun in parts: semi-CRF, front end, weights, windows, notes. `tests/parity` has the published weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from mt3_infer.audio.segments import split_segments
from mt3_infer.audio.spectrogram import mel_matrix_in_hertz
from mt3_infer.errors import WeightsError
from mt3_infer.models import TranskunOptions
from mt3_infer.models.transkun import semi_crf
from mt3_infer.models.transkun.config import FRAME_SECONDS, FRAMES, GRID, TranskunConfig
from mt3_infer.models.transkun.front_end import FrontEnd
from mt3_infer.models.transkun.network import Transkun, build, table_of
from mt3_infer.models.transkun.notes import TranskunCollector, extend_to_pedal
from mt3_infer.models.transkun.semi_crf import IntervalScores, best_successors, intervals_from_any_start
from mt3_infer.models.transkun.transformer import TranskunNetwork
from mt3_infer.symbolic.notes import Note, Pedal
from mt3_infer.symbolic.results import pack, unpack
from mt3_infer.weights.names import published_shapes
from mt3_infer.weights.transkun import Scaled, Transposed, Upsampled

SMALL = TranskunConfig(width=8, heads=2, layers=2, hidden=16)
MATRIX = "framewiseFeatureExtractor.freq2mels"
Interval = tuple[int, int]

# --- Semi-CRF
# -------------------------------------------------------------------------------------------------------


def random_scores(seed: int, tracks: int, frames: int, *, bias: float = 0.0) -> IntervalScores:
    """In float64, so that no two sequences score the same; a bias makes intervals likelier or rarer."""
    random = torch.Generator().manual_seed(seed)
    ends, begins = torch.randn(2, tracks, frames, 3, generator=random, dtype=torch.float64)
    ends[..., 0], begins[..., 0] = bias, 1.0
    return IntervalScores(ends, begins, torch.randn(tracks, frames, generator=random, dtype=torch.float64) - 0.5)


def score(scores: IntervalScores, track: int, begin: int, end: int) -> float:
    if begin == end:
        return float(scores.singles[track, begin])
    return float(scores.ends[track, end] @ scores.begins[track, begin]) * (end - begin)


def every_sequence(begin: int, frames: int) -> Iterator[list[Interval]]:
    """All sequences of intervals that begin at a frame or later."""
    for single in ([], [(begin, begin)]):
        if begin == frames - 1:
            yield single
            continue
        for rest in every_sequence(begin + 1, frames):
            yield single + rest
        for end in range(begin + 1, frames):
            for rest in every_sequence(end, frames):
                yield [*single, (begin, end), *rest]


def decoded(scores: IntervalScores, starts: int) -> list[list[list[Interval]]]:
    """For each track and each start, the sequence from there on, as the collector follows it."""
    successors = best_successors(scores).numpy()
    found = np.stack(intervals_from_any_start(successors, (scores.singles > 0).numpy(), starts), axis=1)
    sequences: list[list[list[Interval]]] = []
    for track in range(len(successors)):
        sequences.append([])
        for start in range(starts):
            sequence, position = [], start
            for begin, end in found[found[:, 0] == track, 1:].tolist():
                if begin >= position:
                    sequence.append((begin, end))
                    position = end
            sequences[-1].append(sequence)
    return sequences


@pytest.mark.parametrize("block", [1, 2, 4, 64])
@given(seed=st.integers(0, 10_000), frames=st.integers(1, 6), bias=st.sampled_from([-1.5, 0.0, 1.0]))
@settings(max_examples=15, deadline=None)
def test_decoded_sequences_score_most_of_all_sequences(block: int, seed: int, frames: int, bias: float) -> None:
    scores = random_scores(seed, 2, frames, bias=bias)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semi_crf, "BLOCK", block)
        sequences = decoded(scores, frames)
    for track, of_track in enumerate(sequences):
        for start, sequence in enumerate(of_track):
            assert sequence == max(
                every_sequence(start, frames), key=lambda s: sum(score(scores, track, *interval) for interval in s)
            )


def plain_viterbi(scores: IntervalScores, track: int) -> list[int]:
    """One begin and one end at a time."""
    frames = scores.singles.shape[1]
    best, successors = [0.0] * frames, list(range(frames))
    for begin in reversed(range(frames)):
        if begin + 1 < frames:
            best[begin] = best[begin + 1]
        for end in range(begin + 1, frames):
            total = score(scores, track, begin, end) + best[end]
            if total > best[begin]:
                best[begin], successors[begin] = total, end
        best[begin] += max(score(scores, track, begin, begin), 0.0)
    return successors


@pytest.mark.parametrize("bias", [-3.0, -1.0, 0.0])
def test_blocks_of_begins_give_the_sequences_of_one_begin_at_a_time(bias: float) -> None:
    scores = random_scores(7, 6, 100, bias=bias)
    successors = best_successors(scores)
    assert (successors > torch.arange(100)).any()
    for track in range(6):
        assert successors[track].tolist() == plain_viterbi(scores, track)


def test_tracks_without_intervals_are_left_out_of_blocks_without_effect() -> None:
    busy, quiet = random_scores(3, 3, 70, bias=-1.0), random_scores(4, 3, 70, bias=-50.0)
    mixed = IntervalScores(
        *(
            torch.stack([a[0], b[0], a[1], b[1]])
            for a, b in zip(vars(busy).values(), vars(quiet).values(), strict=True)
        )
    )
    together = best_successors(mixed)
    assert torch.equal(together[0::2], best_successors(busy)[:2])
    assert torch.equal(together[1::2], torch.arange(70).expand(2, -1))


# --- Front end
# ------------------------------------------------------------------------------------------------------


def front_end(centers: Tensor, widths: Tensor) -> FrontEnd:
    made = FrontEnd(TranskunConfig(learned_windows=len(centers)))
    made.centers.data, made.widths.data = centers, widths
    return made.requires_grad_(False)


def test_spectrograms_are_normalized_log_mel_powers_of_each_window_function() -> None:
    waveform = 3 + np.random.default_rng(1).normal(size=GRID.length)
    made = front_end(torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.5]))
    features = made(torch.from_numpy(waveform).float()).numpy()
    assert features.shape == (3, FRAMES, 229)

    padded = np.pad(waveform, (2048, (FRAMES - 1) * 1024 + 2048 - len(waveform)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 4096)[::1024]
    frame = (frames[345] - frames.mean()) / frames.std(ddof=1)
    time = np.arange(4096)
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.0, -1.0, 1.0, 0.5)]
    windows = [
        0.5 - 0.5 * np.cos(2 * np.pi * time / 4096),
        np.exp(-0.5 * ((time - 4096 * sigmoid[0]) / (2048 * sigmoid[1])) ** 2),
        np.exp(-0.5 * ((time - 4096 * sigmoid[2]) / (2048 * sigmoid[3])) ** 2),
    ]
    matrix = mel_matrix_in_hertz(TranskunConfig().mel).double().numpy()
    for number, window in enumerate(windows):
        power = np.abs(np.fft.rfft(frame * window)) ** 2 / 4096
        expected = 1 - np.log(power @ matrix + 1e-5) / math.log(1e-5)
        np.testing.assert_allclose(features[number, 345], expected, atol=2e-5)


def test_gain_does_not_matter_and_silence_is_zero() -> None:
    made = front_end(torch.zeros(1), torch.zeros(1))
    waveform = torch.from_numpy(np.random.default_rng(2).normal(size=GRID.length)).float()
    torch.testing.assert_close(made(waveform), made(0.01 * waveform), atol=1e-4, rtol=0)
    assert not made(torch.zeros(GRID.length)).any()


def test_mel_bands_cover_30_to_8000_hertz_with_triangles_of_height_one() -> None:
    matrix = mel_matrix_in_hertz(TranskunConfig().mel)
    hertz = torch.arange(2049) * (44_100 / 4096)
    assert matrix.shape == (2049, 229)
    assert hertz[matrix.any(dim=1)].min() > 30 > hertz[matrix.any(dim=1)].min() - 11
    assert hertz[matrix.any(dim=1)].max() < 8000 < hertz[matrix.any(dim=1)].max() + 11
    center = 700 * (10 ** (1200 / 2595) - 1)  # where the scale is at 1200 mel
    low, high = (2595 * math.log10(1 + edge / 700) for edge in (30, 8000))
    band = (1200 - low) / (high - low) * 230 - 1
    nearest = int(hertz.sub(center).abs().argmin())
    assert abs(float(matrix[nearest].argmax()) - band) < 1


# --- Weights
# --------------------------------------------------------------------------------------------------------


def published(config: TranskunConfig = SMALL) -> dict[str, Tensor]:
    """A file as it is published, with random weights."""
    with torch.device("meta"):
        shapes = published_shapes(TranskunNetwork(config), table_of(config))
    random = torch.Generator().manual_seed(5)
    weights = {name: torch.randn(shape, generator=random) * 0.3 for name, shape in shapes.items()}
    return weights | {MATRIX: mel_matrix_in_hertz(config.mel)}


def test_the_published_file_has_as_many_parameters_as_the_table_asks_for() -> None:
    full = published(TranskunConfig())
    assert "framewiseFeatureExtractor.spectrogramExtractor.winGen.sigma" in full
    assert full["backbone.encoderLayers.5.mhaBlockT.module.q_proj_weight"].shape == (256, 256)
    assert full["backbone.upConv1dSkip.weight"].shape == (256, 256, 8)
    assert full["scorer.map.0.weight"].shape == (513, 256)
    assert full["velocityPredictor.3.weight"].shape == (128, 512)
    build(full)


@pytest.mark.parametrize("rows", [None, slice(0, 4), slice(8, 9)])
def test_joined_matmuls_are_the_transposed_convolution_and_what_follows_it(rows: slice | None) -> None:
    convolution, bias = torch.randn(4, 4, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    scorer, scorer_bias = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    row = Upsampled(4, 3, rows, 1.0 if rows is None else 0.5)
    weight = row.combine("weight", [convolution] if rows is None else [convolution, scorer])
    added = row.combine("bias", [bias] if rows is None else [bias, scorer, scorer_bias])
    tokens = torch.randn(5, 4, dtype=torch.float64)

    frames = functional.conv_transpose1d(tokens.T[None], convolution, bias, stride=3)[0].T  # (15, 4)
    expected = frames if rows is None else 0.5 * (frames @ scorer.T + scorer_bias)[:, rows]
    torch.testing.assert_close(functional.linear(tokens, weight, added).reshape(expected.shape), expected)


def test_scaled_and_transposed_matmuls_give_what_the_published_ones_give() -> None:
    x, scale = torch.randn(3, 4), torch.randn(6)
    linear = torch.nn.Linear(4, 6)
    row = Scaled("a", "a.scale")
    weight, bias = (row.combine(kind, [part, scale]) for kind, part in linear.named_parameters())
    torch.testing.assert_close(functional.linear(x, weight, bias), scale * linear(x))

    keys, values = torch.randn(2, 4, 6)
    both = Transposed(("k", "v")).combine("", [keys, values])
    torch.testing.assert_close(functional.linear(x, both), torch.cat([x @ keys, x @ values], dim=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({MATRIX: torch.zeros(2049, 229)}, "other mel bands"),
        ({MATRIX: torch.zeros(1025, 229)}, "other mel bands"),
        ({"backbone.unknown": torch.zeros(1)}, r"unknown backbone\.unknown"),
        ({"scorer.map.0.bias": torch.zeros(1)}, r"scorer\.map\.0\.bias \(1,\) instead of \(65,\)"),
    ],
)
def test_weights_of_another_network_are_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build(published() | change, SMALL)


# --- Windows
# --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Transkun:
    return Transkun(build(published(), SMALL), device=torch.device("cpu"))


WAVEFORM = np.random.default_rng(3).normal(scale=0.1, size=20 * 44_100).astype(np.float32)


def test_intervals_of_shards_are_those_of_the_whole_recording(model: Transkun) -> None:
    """To the bit, and after they were stored."""
    options = TranskunOptions(extend_to_pedal=False)
    whole = list(model.infer(split_segments([WAVEFORM], GRID), options))
    assert len(whole) == GRID.count(len(WAVEFORM)) == 4
    assert any(len(result) for result in whole)
    shards = []
    for first, stop in ((0, 1), (1, 3), (3, 4)):
        begin, end = GRID.span(first, stop, len(WAVEFORM))
        segments = split_segments([WAVEFORM[begin:end]], GRID, first=first, stop=stop)
        shards += unpack(pack(list(model.infer(segments, options))))
    assert [result.tobytes() for result in shards] == [result.tobytes() for result in whole]


def test_intervals_are_sorted_and_within_the_window(model: Transkun) -> None:
    found = model.intervals(WAVEFORM[: GRID.length])
    assert found.shape[1] == 8
    assert (np.lexsort((found[:, 2], found[:, 1], found[:, 0])) == np.arange(len(found))).all()
    track, begin, end, velocity, *shifts, has_onset, has_offset = found.T
    assert ((track >= 0) & (track < 90) & (begin >= 0) & (begin <= end) & (end < FRAMES)).all()
    assert ((velocity >= 0) & (velocity < 128)).all()
    assert (np.abs(shifts) <= 0.5).all()
    assert has_onset[begin > 0].all()
    assert has_offset[end < 689].all()


# --- Windows → notes
# ------------------------------------------------------------------------------------------------


SUSTAIN, SOFT, A0, MIDDLE_C = 0, 1, 2, 41  # tracks
HOP = 345  # frames from window to window


def seconds(window: int, frame: float) -> float:
    return frame * FRAME_SECONDS + window * HOP * FRAME_SECONDS - 8.0


def interval(
    track: int, begin: float, end: float, velocity: int = 64, *, onset: bool = True, offset: bool = True
) -> list[float]:
    """One row of a result; parts of frames are shifts from their middles."""
    first, last = math.floor(begin + 0.5), math.floor(end + 0.5)
    return [track, first, last, velocity, begin - first, end - last, onset, offset]


def collected(*windows: list[list[float]], extend: bool = False) -> tuple[list[Note], list[Pedal]]:
    collector = TranskunCollector(extend_to_pedal=extend)
    for rows in windows:
        collector.feed(np.array(rows, np.float32).reshape(-1, 8))
    output = collector.finish(10_000_000)
    return output.notes, list(output.pedals)


def spans(notes: Sequence[Note | Pedal]) -> list[float]:
    return [time for note in notes for time in (note.onset, note.offset)]


def of_window(window: int, *frames: float) -> list[float]:
    return [seconds(window, frame) for frame in frames]


def test_tracks_become_notes_and_pedals_in_seconds() -> None:
    notes, pedals = collected(
        [interval(SUSTAIN, 400, 500.25), interval(SOFT, 350, 360), interval(A0, 400.25, 410, 90)],
        [interval(MIDDLE_C, 300, 310, 0)],
    )
    assert [(note.pitch, note.velocity) for note in notes] == [(21, 90), (60, 1)]
    assert spans(notes) == pytest.approx([*of_window(0, 400.25, 410), *of_window(1, 300, 310)])
    assert [pedal.controller for pedal in pedals] == [67, 64]
    assert spans(pedals) == pytest.approx(of_window(0, 350, 360, 400, 500.25))


def test_decoding_of_a_window_continues_where_the_last_event_of_the_one_before_ended() -> None:
    notes, _ = collected(
        [interval(A0, 400, 445)],
        [interval(A0, 60, 105), interval(A0, 90, 200), interval(A0, 101, 120), interval(A0, 130, 150)],
    )
    # 445 is frame 100 of the next window: of the sequences in its result only that from there on counts.
    assert spans(notes) == pytest.approx([*of_window(0, 400, 445), *of_window(1, 101, 120, 130, 150)])


def test_first_window_is_decoded_from_the_start_of_the_recording_on() -> None:
    notes, _ = collected([interval(A0, 10, 400), interval(A0, 343, 500), interval(A0, 344, 360)])
    assert spans(notes) == pytest.approx([0.0, seconds(0, 360)])


def test_event_that_continues_beyond_a_window_ends_in_the_next() -> None:
    notes, _ = collected(
        [interval(A0, 600, 690, offset=False)],
        [interval(A0, 0, 400, 99, onset=False), interval(A0, 400, 410, 30)],
    )
    assert [note.velocity for note in notes] == [64, 30]
    assert spans(notes) == pytest.approx([seconds(0, 600), *of_window(1, 400, 400, 410)])


def test_event_that_is_found_again_with_its_onset_takes_the_place_of_the_first() -> None:
    notes, _ = collected([interval(A0, 600, 690, offset=False)], [interval(A0, 255.25, 400, 99)])
    assert [note.velocity for note in notes] == [99]
    assert spans(notes) == pytest.approx(of_window(1, 255.25, 400))


def test_event_without_an_onset_is_dropped_unless_it_prolongs_another() -> None:
    notes, _ = collected([], [interval(A0, 0, 100, onset=False)])
    assert notes == []


def test_last_event_of_a_track_ends_with_its_window() -> None:
    notes, _ = collected([interval(MIDDLE_C, 500, 690, offset=False)])
    assert spans(notes) == pytest.approx(of_window(0, 500, 690))


def test_notes_of_one_pitch_never_overlap() -> None:
    notes, _ = collected([interval(A0, 400, 420.4), interval(A0, 420, 430)])
    assert spans(notes) == pytest.approx(of_window(0, 400, 420.4, 420.4, 430))


def test_notes_under_the_sustain_pedal_are_prolonged_on_request() -> None:
    rows = [interval(SUSTAIN, 400, 500), interval(A0, 410, 420), interval(MIDDLE_C, 510, 520)]
    plain, _ = collected(rows)
    extended, pedals = collected(rows, extend=True)
    assert spans(plain) == pytest.approx(of_window(0, 410, 420, 510, 520))
    assert spans(extended) == pytest.approx(of_window(0, 410, 500, 510, 520))
    assert len(pedals) == 1


def test_prolonged_notes_end_where_their_pitch_begins_again() -> None:
    notes = [Note(1.0, 1.5, 60, 80), Note(2.0, 2.2, 60, 80), Note(2.1, 2.3, 64, 80), Note(5.0, 5.5, 64, 80)]
    pedals = [Pedal(0.0, 0.5), Pedal(1.2, 4.0), Pedal(5.2, 9.0, 67)]
    extended = sorted(extend_to_pedal(notes, pedals), key=lambda note: note.onset)
    assert spans(extended) == [1.0, 2.0, 2.0, 4.0, 2.1, 4.0, 5.0, 5.5]

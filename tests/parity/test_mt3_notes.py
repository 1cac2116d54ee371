"""The codec and the note decoder against Magenta's own, case by case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt3_infer.symbolic.notes import Note, NoteDecoder
from mt3_infer.symbolic.vocabulary import END, MT3_CODEC, SPECIAL_TOKENS, EventType

DATA = Path(__file__).parent / "data"
CASES = np.load(DATA / "decode_cases.npz")
CODEC = np.load(DATA / "codec.npz")


def decode(rows: Any, lengths: Sequence[int], starts: Sequence[float]) -> tuple[list[Note], list[int]]:
    steps = [round(100 * start) for start in starts]
    decoder = NoteDecoder()
    for row, length, start, limit in zip(rows, lengths, steps, [*steps[1:], None], strict=True):
        decoder.feed(row[:length].tolist(), start=start, limit=limit)
    return decoder.finish(), [decoder.invalid_tokens, decoder.dropped_tokens]


def assert_same_notes(notes: list[Note], reference: Any) -> None:
    """Columns: start, end, pitch, velocity, program, is_drum, instrument; the last belongs to the MIDI writer."""
    assert len(notes) == len(reference)
    ours = np.array([[n.onset, n.offset, n.pitch, n.velocity, n.program, n.is_drum] for n in notes])
    np.testing.assert_allclose(ours, reference[:, :6], rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", sorted({name.split("/")[0] for name in CASES.files if "/" in name}))
def test_notes_and_counters_of_a_hand_made_stream(case):
    tokens, lengths, starts, notes, counters = (
        CASES[f"{case}/{name}"] for name in ("tokens", "lengths", "start", "notes", "invalid_dropped")
    )
    ours, counted = decode(tokens, lengths, starts)
    assert_same_notes(ours, notes)
    assert counted == counters.tolist()


@pytest.mark.parametrize(("suffix", "row"), [("", 0), ("_mt3pytorch_pos", 1)])
def test_notes_of_ten_seconds_of_bach(suffix, row):
    tokens = np.load(DATA / "official_model.npz")[f"tokens{suffix}"]
    reference = np.load(DATA / "notes_bach10s.npz")
    starts = np.load(DATA / "frontend.npz")["segment_start"]
    notes, counted = decode(tokens, [tokens.shape[1]] * len(tokens), starts)
    assert_same_notes(notes, reference[f"notes{suffix}"])
    assert counted == reference["invalid_dropped"][row].tolist()


@pytest.mark.parametrize("sample", range(len(CODEC["token_id"])))
def test_token_id_means_what_it_means_to_magenta(sample):
    token_id, decoded, event_type, value = (
        CODEC[name][sample].item() for name in ("token_id", "decoded_id", "event_type", "value")
    )
    event = MT3_CODEC.decode(token_id)
    match event_type:
        case "eos":
            assert (token_id, event) == (END, None)
        case "invalid":
            assert event is None
        case _:
            assert event is not None
            assert (event.type, event.value, token_id - SPECIAL_TOKENS) == (event_type, value, decoded)
            assert MT3_CODEC.encode(event) == token_id


def test_ranges_lie_where_magenta_put_them():
    for event_type, first, last in zip(
        CODEC["range_type"], CODEC["range_first_token"], CODEC["range_last_token"], strict=True
    ):
        assert MT3_CODEC.token_ids(EventType(event_type)) == range(first, last + 1)
    assert len(MT3_CODEC) == 1391

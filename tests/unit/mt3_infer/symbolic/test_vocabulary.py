"""Instruments are chosen by the tokens that are left; ids and events are each other's inverse."""

from __future__ import annotations

import pytest

from mt3_infer.symbolic.instruments import select
from mt3_infer.symbolic.vocabulary import (
    END,
    MT3_CODEC,
    Event,
    EventType,
    allowed_token_ids,
)


def allowed_events(*names: str) -> dict[EventType, list[int]]:
    events: dict[EventType, list[int]] = {}
    for token_id in allowed_token_ids(MT3_CODEC, select(names)):
        if (event := MT3_CODEC.decode(token_id)) is not None:
            events.setdefault(event.type, []).append(event.value)
    return events


def test_every_id_survives_the_way_there_and_back():
    for token_id in range(3, len(MT3_CODEC)):
        event = MT3_CODEC.decode(token_id)
        assert event is not None
        assert MT3_CODEC.encode(event) == token_id


@pytest.mark.parametrize("token_id", [-1, 0, 1, 2, 1391, 1535])
def test_other_ids_are_no_events(token_id):
    assert MT3_CODEC.decode(token_id) is None


def test_event_outside_the_vocabulary():
    with pytest.raises(ValueError, match="no shift 1001"):
        MT3_CODEC.encode(Event(EventType.SHIFT, 1001))


def test_only_the_programs_of_the_chosen_instruments_are_left():
    events = allowed_events("bass", "piano")
    assert events[EventType.PROGRAM] == [*range(0, 8), *range(32, 40)]
    assert len(events[EventType.PITCH]) == 128
    assert len(events[EventType.SHIFT]) == 1001
    assert EventType.DRUM not in events


def test_drums_alone_leave_no_pitches():
    events = allowed_events("drums")
    assert len(events[EventType.DRUM]) == 128
    assert EventType.PITCH not in events
    assert EventType.PROGRAM not in events


def test_a_segment_can_always_end():
    assert END in allowed_token_ids(MT3_CODEC, select(["drums"]))


def test_an_instrument_leaves_the_programs_of_its_family():
    assert allowed_events("violin", "cello", "drums")[EventType.PROGRAM] == [*range(40, 48)]

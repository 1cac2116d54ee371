"""Two transcriptions of one recording: what they share, and the picture of it."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree

from mt3_infer.evaluation.agreement import agreement
from mt3_infer.evaluation.picture import BOTH, MOST_WIDTH, ONLY_A, ONLY_B, draw_agreement
from mt3_infer.symbolic.notes import Note

A = [Note(0.0, 0.5, 60, 80), Note(1.0, 1.5, 62, 80), Note(2.0, 2.5, 64, 80)]
B = [Note(0.02, 0.7, 60, 90), Note(1.2, 1.5, 62, 80), Note(2.0, 2.1, 64, 80, is_drum=True)]


def test_notes_are_shared_or_belong_to_one_side() -> None:
    shared = agreement(A, B)
    assert shared.both == A[:1]
    assert shared.only_a == A[1:]
    assert shared.only_b == B[1:]
    assert shared.score.f1 == agreement(B, A).score.f1 == 1 / 3


def test_two_empty_transcriptions_have_nothing_in_common() -> None:
    shared = agreement([], [])
    assert shared.score.f1 == 0.0
    ElementTree.fromstring(draw_agreement(shared, "a", "b"))


def test_picture_has_a_bar_for_each_note_in_the_color_of_its_side() -> None:
    root = ElementTree.fromstring(draw_agreement(agreement(A, B), "<first>", "second"))
    bars = Counter[str]()
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        if path.get("class") == "notes":
            bars[path.get("fill") or ""] += (path.get("d") or "").count("M")
    assert bars == {BOTH: 1, ONLY_A: 2, ONLY_B: 2}
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "only <first> (2)" in texts


def test_picture_of_hours_stays_of_a_size_that_can_be_opened() -> None:
    long = [Note(float(i), i + 1.0, 60, 80) for i in range(0, 10_800, 60)]
    root = ElementTree.fromstring(draw_agreement(agreement(long, []), "a", "b"))
    assert int(root.get("width") or 0) <= MOST_WIDTH

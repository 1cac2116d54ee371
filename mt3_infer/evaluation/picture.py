"""Draw an agreement as a piano roll in SVG: what both have, and what one has alone."""

from __future__ import annotations

from mt3_infer.evaluation.agreement import Agreement
from mt3_infer.pictures.piano_roll import Track, lay_out
from mt3_infer.pictures.svg import Canvas, to_svg
from mt3_infer.symbolic.grid import BeatGrid

WIDTH, ROW = 1200, 6  # pixels
MOST_WIDTH = 20_000  # pixels, of the roll of a long recording
MOST_SHAPES = 100_000
SECONDS_ACROSS = 30  # that fit into WIDTH
# Blue, orange and gray are told apart with any color vision.
BOTH, ONLY_A, ONLY_B = "#9aa5b1", "#0072b2", "#d55e00"


def draw_agreement(agreement: Agreement, name_a: str, name_b: str) -> str:
    """Return the picture of an agreement, with the names of both sides in its legend."""
    tracks = (
        Track(f"both ({len(agreement.both)})", BOTH, agreement.both),
        Track(f"only {name_a} ({len(agreement.only_a)})", ONLY_A, agreement.only_a),
        Track(f"only {name_b} ({len(agreement.only_b)})", ONLY_B, agreement.only_b),
    )
    end = max([1.0, *(note.offset for track in tracks for note in track.notes)])
    width = min(MOST_WIDTH, max(WIDTH, round(WIDTH * end / SECONDS_ACROSS)))
    title = f"{name_a} and {name_b}: F1 {agreement.score.f1:.2f}"
    return to_svg(lay_out(tracks, BeatGrid(), 0.0, end), title, Canvas(width, ROW, MOST_SHAPES))

"""Draw an agreement as a piano roll in SVG: what both have, and what one has alone."""

from __future__ import annotations

from xml.sax.saxutils import escape

from mt3_infer.evaluation.agreement import Agreement
from mt3_infer.symbolic.notes import Note

WIDTH, ROW, LEFT, TOP = 1200, 6, 48, 40  # pixels; a row is a pitch
MOST_WIDTH = 20_000  # pixels, of the roll of a long recording
SECONDS_ACROSS = 30  # that fit into WIDTH
# Blue, orange and gray are told apart with any color vision.
BOTH, ONLY_A, ONLY_B = "#9aa5b1", "#0072b2", "#d55e00"
STEPS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)  # seconds between marks on the axis


def to_svg(agreement: Agreement, name_a: str, name_b: str) -> str:
    """Return the picture of an agreement, with the names of both sides in its legend."""
    layers = ((agreement.both, BOTH), (agreement.only_a, ONLY_A), (agreement.only_b, ONLY_B))
    notes = [note for layer, _ in layers for note in layer]
    lowest = min((note.pitch for note in notes), default=60) - 1
    highest = max((note.pitch for note in notes), default=72) + 1
    end = max(1.0, max((note.offset for note in notes), default=1.0))
    width = min(MOST_WIDTH, max(WIDTH, round(WIDTH * end / SECONDS_ACROSS)))
    scale = (width - LEFT - 12) / end
    height = (highest - lowest + 1) * ROW
    legend = (
        (BOTH, f"both ({len(agreement.both)})"),
        (ONLY_A, f"only {name_a} ({len(agreement.only_a)})"),
        (ONLY_B, f"only {name_b} ({len(agreement.only_b)})"),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + height + 28}"'
        f' viewBox="0 0 {width} {TOP + height + 28}" font-family="sans-serif" font-size="13">',
        f"<title>{escape(f'{name_a} and {name_b}: F1 {agreement.score.f1:.2f}')}</title>",
        f'<rect width="{width}" height="{TOP + height + 28}" fill="white"/>',
    ]
    x = LEFT
    for color, text in legend:
        parts.append(f'<rect x="{x}" y="14" width="14" height="10" fill="{color}"/>')
        parts.append(f'<text x="{x + 20}" y="24" fill="#222">{escape(text)}</text>')
        x += 40 + 8 * len(text)
    parts += _axes(lowest, highest, height, end, scale)
    for layer, color in layers:
        parts.append(f'<g fill="{color}">')
        parts += [_bar(note, highest, scale) for note in layer]
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _bar(note: Note, highest: int, scale: float) -> str:
    """Return a note; a gap before its end keeps repeated ones apart."""
    x, y = LEFT + note.onset * scale, TOP + (highest - note.pitch) * ROW
    length = max(2.0, (note.offset - note.onset) * scale - 0.7)
    return f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{ROW - 1}" rx="1"/>'


def _axes(lowest: int, highest: int, height: int, end: float, scale: float) -> list[str]:
    """Return lines at each C and marks of the seconds."""
    parts = ['<g stroke="#e3e6ea" fill="#555">']
    for pitch in range(-(-lowest // 12) * 12, highest + 1, 12):
        y = TOP + (highest - pitch) * ROW + ROW / 2
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + end * scale:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="8" y="{y + 4}" stroke="none">C{pitch // 12 - 1}</text>')
    step = next((step for step in STEPS if step * scale >= 60), STEPS[-1])
    for seconds in range(0, int(end) + 1, step):
        x = LEFT + seconds * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + height}"/>')
        clock = f"{seconds // 60}:{seconds % 60:02d}"
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + height + 18}" text-anchor="middle" stroke="none">{clock}</text>'
        )
    return [*parts, "</g>"]

"""Read works of music21's corpus for `fit_grid.py`, once, and cut excerpts from them.

Works that `performances.py` judges with are left out, and those of the clips in tests/data/mt3_notes.json.
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import click
import numpy as np
from performances import half
from pieces import PIECES
from scores import Bar, Part, Score, Written, read_score

WORKS = {  # folder of the corpus → how many works at most, and how often one is drawn
    "bach": (70, 5),
    "beethoven": (8, 4),
    "chopin": (9, 1),
    "corelli": (4, 0.5),
    "cpebach": (4, 1),
    "handel": (6, 1),
    "haydn": (14, 6),
    "leadSheet": (4, 1),
    "monteverdi": (6, 0.5),
    "mozart": (14, 7),
    "oneills1850": (8, 2),
    "ryansMammoth": (80, 3),
    "schumann_clara": (3, 1),
    "schumann_robert": (8, 1),
    "verdi": (2, 1),
    "weber": (4, 1),
}
OF_TESTS = ("maple_leaf", "k545", "opus74no1", "lindenbaum")
OF_A_BOOK = 25  # tunes of a collection
LONGEST_SECONDS = 120  # that parsing may take
BARS = 150  # of a work, at most


def read_corpus(folder: Path, seed: int) -> None:
    """Write each work of `WORKS` as JSON into a folder; those that are there stay."""
    from music21 import corpus, stream

    random = np.random.default_rng(seed)
    root = Path(corpus.__file__).parent
    judging = [piece.source for piece in PIECES.values() if half(piece.name) == "judge"]
    for name, (most, _) in WORKS.items():
        paths = sorted(
            path for path in (root / name).rglob("*") if path.suffix in {".mxl", ".xml", ".krn", ".abc"}
        )
        paths = [path for path in paths if not any(other in str(path) for other in (*OF_TESTS, *judging))]
        for index in random.permutation(len(paths))[:most]:
            source = paths[index].relative_to(root)
            target = folder / f"{name}__{'_'.join(source.parts[1:])}.json"
            if not target.exists():
                scores = _read(corpus, stream, source)
                target.write_text(json.dumps(scores))
                click.echo(f"{source}: {len(scores)}")


def _read(corpus: Any, stream: Any, source: Path) -> list[dict[str, Any]]:
    """Return the scores of a work, or none if it cannot be read, or not in time."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST_SECONDS)
    try:
        work = corpus.parse(str(source))
        numbers = [None]
        if isinstance(work, stream.Opus):
            numbers = work.getNumbers()[:OF_A_BOOK]
        return [one for number in numbers if (one := _score(corpus, source, number)) is not None]
    except Exception as error:  # whatever a parser raises; the corpus has works that music21 cannot read
        click.echo(f"{source}: {error!r:.80}")
        return []
    finally:
        signal.alarm(0)


def _score(corpus: Any, source: Path, number: Any) -> dict[str, Any] | None:
    work = corpus.parse(str(source), number=number) if number else corpus.parse(str(source))
    try:
        score = read_score(str(source), number, 0, BARS, [Part(0) for _ in work.parts])
    except (IndexError, AttributeError, ValueError):  # no measures, no meter
        return None
    key = work.analyze("key")
    return asdict(score) | {"mode": key.mode if key.sharps == score.key_sharps else ""}


def load_scores(folder: Path) -> dict[str, list[tuple[Score, str]]]:
    """Return scores with their modes ("major", "minor", or "" if unknown), by folder of the corpus."""
    result: dict[str, list[tuple[Score, str]]] = {}
    for path in sorted(folder.glob("*.json")):
        for content in json.loads(path.read_text()):
            mode = content.pop("mode")
            score = Score(
                parts=[Part(**part) for part in content["parts"]],
                notes=[Written(**note) for note in content["notes"]],
                bars=[Bar(**bar) for bar in content["bars"]],
                key_sharps=content["key_sharps"],
                beat_q=content["beat_q"],
            )
            if len(score.bars) > 5:
                result.setdefault(path.name.partition("__")[0], []).append((score, mode))
    return result


def excerpt(score: Score, quarters: float, random: np.random.Generator) -> Score | None:
    """Return some bars of a score, sometimes of some of its parts; None if they have too few notes."""
    first = 0 if random.random() < 0.4 else int(random.integers(max(1, len(score.bars) - 6)))
    start = score.bars[first].q
    bars = [replace(bar, q=bar.q - start) for bar in score.bars[first:] if bar.q - start < quarters]
    end = bars[-1].q + bars[-1].length_q
    parts = set(range(len(score.parts)))
    if len(parts) > 1 and random.random() < 0.2:
        count = 1 if random.random() < 0.6 else max(1, len(parts) - 1)
        parts = {int(part) for part in random.permutation(len(parts))[:count]}
    notes = [
        replace(note, q=note.q - start, dur_q=min(note.dur_q, start + end - note.q))
        for note in score.notes
        if note.part in parts and start - 1e-6 <= note.q < start + end - 1e-6
    ]
    return replace(score, notes=notes, bars=bars) if len(notes) >= 12 and len(bars) >= 4 else None

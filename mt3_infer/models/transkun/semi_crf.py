"""The semi-CRF of Transkun: scores of intervals → the best sequence of intervals of each track.

An interval begins and ends on a frame, and the next one may begin where it ends; a single frame may be one as
well. A sequence scores the sum over its intervals, frames between them 0. The best sequence from each frame on
follows from those of later frames (Viterbi, backward), so all of them are known at once.

The scores of a window would take T × T × tracks numbers, 170 MB. They are computed for a few begins at a time, and
only their maximum is kept.

Source: Yan, Cwitkowitz, Duan (NeurIPS 2021), section 3; Yan, Duan (ISMIR 2024), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 64
"""Begins whose scores are computed at once."""


@dataclass(frozen=True)
class IntervalScores:
    """Hold what intervals are scored by.

    The score of an interval [b, e] is (ends[e] · begins[b]) (e - b); that of the single frame t is singles[t].

    Attributes:
        ends, begins: shape (tracks, T, D).
        singles: shape (tracks, T).
    """

    ends: Tensor
    begins: Tensor
    singles: Tensor


def best_successors(scores: IntervalScores) -> Tensor:
    """Return for each frame the end of the interval that begins there in the best sequence from there on.

    Returns:
        Shape (tracks, T), whole numbers; the frame itself if no interval begins there.
    """
    tracks, frames = scores.singles.shape
    gains = scores.singles.clamp(min=0)  # a single frame that scores more than 0 is always taken
    best = gains.clone()  # (tracks, T): total from each frame on; complete from `stop` on
    successors = torch.arange(frames, device=best.device).repeat(tracks, 1)
    for start in reversed(range(0, frames - 1, BLOCK)):
        stop = min(start + BLOCK, frames - 1)
        best[:, start:stop] = best[:, stop, None] + gains[:, start:stop].flip(1).cumsum(1).flip(1)
        dots = scores.begins[:, start:stop] @ scores.ends[:, start + 1 :].transpose(1, 2)  # (tracks, b, e)
        # Totals never rise with time, so an interval that scores 0 or less is never better than none. In most
        # blocks most tracks have no other ones.
        active = (dots.flatten(1).amax(dim=1) > 0).nonzero()[:, 0]
        if len(active):
            totals, chosen = _decode_block(dots[active], best[active], gains[active], start, stop)
            best[active, start:stop] = totals
            successors[active, start:stop] = chosen
    return successors


def _decode_block(dots: Tensor, best: Tensor, gains: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return the totals from each of the frames [start, stop) on, and what follows it; the last one comes first.

    Args:
        dots: scores per frame of an interval's length, shape (N, stop - start, T - start - 1).
        best: totals, shape (N, T), which are complete from `stop` on.
        gains: of single frames, shape (N, T).
    """
    steps = torch.arange(start, best.shape[1], dtype=dots.dtype, device=dots.device)
    scores = dots * (steps[1:] - steps[: stop - start, None]).clamp_(min=0)  # 0 for an end before the begin
    # The maximum over the ends after the block, whose totals are known, is taken for all begins at once.
    inner = stop - start - 1  # ends inside of the block
    totals, successors = (scores[:, :, inner:] + best[:, None, stop:]).max(dim=2)
    successors += stop
    for begin in reversed(range(start, stop)):
        row = begin - start
        total, end = totals[:, row], successors[:, row]
        if row < inner:
            nearest, place = (scores[:, row, row:inner] + totals[:, row + 1 :]).max(dim=1)
            nearer = nearest >= total
            total, end = torch.where(nearer, nearest, total), torch.where(nearer, place + (begin + 1), end)
        skipped = totals[:, row + 1] if row < inner else best[:, stop]
        skips = skipped >= total
        totals[:, row] = torch.where(skips, skipped, total) + gains[:, begin]
        successors[:, row] = torch.where(skips, begin, end)
    return totals, successors


def intervals_from_any_start(
    successors: NDArray[np.int64], singles: NDArray[np.bool_], starts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return all intervals of the best sequences from each of the first so many frames on.

    Args:
        successors: of `best_successors`.
        singles: single frames that are intervals, shape (tracks, T).
        starts: frames at which decoding may begin.
    Returns:
        Track, begin and end of each, shape (N,), sorted by track, then begin, then end.
    """
    tracks, frames = successors.shape
    reached = np.zeros((tracks, frames), bool)
    reached[:, :starts] = True
    reached[:, -1] = True
    every = np.arange(tracks)
    for frame in range(frames - 1):
        following = np.maximum(successors[:, frame], frame + 1)
        at = reached[:, frame]
        reached[every[at], following[at]] = True
    begins = reached & (successors > np.arange(frames))
    track, begin = np.nonzero(begins)
    single_track, single = np.nonzero(reached & singles)
    end = successors[track, begin]
    tracks_of = np.concatenate([single_track, track])
    begin_of, end_of = np.concatenate([single, begin]), np.concatenate([single, end])
    order = np.lexsort((end_of, begin_of, tracks_of))
    return tracks_of[order], begin_of[order], end_of[order]

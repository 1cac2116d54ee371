"""The promised start of jobs compared with the true one, on the real scheduling code, in real time.

The simulated work takes as long as it should only on a machine that does nothing else. The rules by which promises
are made are tested in `tests/unit/shared/test_line.py`.
"""

from __future__ import annotations

import random
import time

import pytest

from shared.db import Sessions
from tests.promises import Fleet, Promise, measure_promises, submit, wait_for

LEAST = 1.0  # seconds: shorter waits count as this, for workers look for short work once a second


def share_kept(promises: list[Promise]) -> float:
    return sum(promise.is_kept(1.5, LEAST) for promise in promises) / len(promises)


def run(sessions: Sessions, count: int, *, owners: str, workers: int, longest: float, seed: int) -> list[Promise]:
    random.seed(seed)
    with Fleet(sessions, workers=workers) as fleet:
        wait_for(fleet, [submit(fleet, random.uniform(5, 60)) for _ in range(8)])
        arrivals = []
        for _ in range(count):
            seconds = random.uniform(100, longest) if longest and random.random() < 0.06 else random.uniform(5, 60)
            pause = random.expovariate(1 / 1.5) if random.random() < 0.12 else 0.01
            arrivals.append((pause, seconds, random.choice(owners)))
        return measure_promises(fleet, arrivals)


@pytest.mark.soak
def test_most_promises_hold_for_short_recordings(sessions: Sessions) -> None:
    assert share_kept(run(sessions, 40, owners="a", workers=1, longest=0, seed=1)) > 0.6


@pytest.mark.soak
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_most_promises_hold_in_a_mixed_load(postgres_sessions: Sessions) -> None:
    kept = []
    for seed, (owners, workers) in enumerate([("a", 1), ("aabc", 1), ("a", 2), ("aabc", 2)]):
        began = time.monotonic()
        promises = run(postgres_sessions, 150, owners=owners, workers=workers, longest=600, seed=seed)
        kept.append(share_kept(promises))
        waits = sorted(promise.waited for promise in promises)
        print(
            f"\n{workers} workers, {len(set(owners))} owners: {kept[-1]:.0%} of {len(promises)} promises within a "
            f"factor of 1.5; median wait {waits[len(waits) // 2]:.1f} s, {time.monotonic() - began:.0f} s in all"
        )
    assert sum(kept) / len(kept) >= 0.8

"""Mutants of many formats are decoded or refused: no crash, no hang, no growth."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from mt3_infer import AudioError
from mt3_infer.audio import isolation, open_audio
from tests.chaos.runs import SCALE
from tests.fuzz.mutants import mutate
from tests.recordings import tone, write
from tests.unit.mt3_infer.audio.test_containers import KINDS

RATE = 16000
HANG_SECONDS = 10.0


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return three seconds in each format that the container tests cover."""
    folder = tmp_path_factory.mktemp("originals")
    waveform = np.stack([tone(3.0, 44100), tone(3.0, 44100, 660)])
    return {
        name: write(folder / name, waveform, *kind[1::-1], **kind[2]).read_bytes() for name, kind in KINDS.items()
    }


def try_out(data: bytes, path: Path) -> str:
    """Return the outcome of a mutant in a word."""
    path.write_bytes(data)
    began = time.monotonic()
    try:
        with open_audio(path, sample_rate=RATE, max_seconds=600) as stream:
            for block in stream:
                assert np.isfinite(block).all()
        outcome = "decoded"
    except AudioError as error:
        outcome = "crashed" if str(error) == isolation.CRASHED else error.code
    if time.monotonic() - began > HANG_SECONDS:
        outcome = "hung"
    return outcome


def run(originals: dict[str, bytes], folder: Path, mutants: int) -> Counter[str]:
    names = sorted(originals)
    outcomes: Counter[str] = Counter()

    def one(number: int) -> tuple[int, str]:
        name = names[number % len(names)]
        data = mutate(originals[name], random.Random(number))
        return number, try_out(data, folder / f"{number} {name}")

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for number, outcome in threads.map(one, range(mutants)):
            outcomes[outcome] += 1
            path = folder / f"{number} {names[number % len(names)]}"
            if outcome in ("crashed", "hung"):
                print(f"mutant {number} of {names[number % len(names)]} {outcome}")
            path.unlink()
    return outcomes


def test_mutants_of_all_kinds_are_decoded_or_refused(originals: dict[str, bytes], tmp_path: Path) -> None:
    outcomes = run(originals, tmp_path, 180)
    assert outcomes["decoded"] > 20
    assert not {"crashed", "hung"} & outcomes.keys(), outcomes


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_thousands_of_mutants(originals: dict[str, bytes], tmp_path: Path) -> None:
    mutants = max(300, round(5000 * SCALE))
    run(originals, tmp_path, 100)  # warm up imports and caches
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    outcomes = run(originals, tmp_path, mutants)
    grown = psutil.Process().memory_info().rss - before
    print(f"\n{mutants} mutants of {len(originals)} kinds in {time.monotonic() - began:.0f} s: {dict(outcomes)}")
    print(f"memory of the process that asked: {grown / 1e6:+.1f} MB")
    assert not {"crashed", "hung", "internal_error"} & outcomes.keys()
    assert grown < 50e6

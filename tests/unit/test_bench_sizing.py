"""`bench/sizing.py`: what it makes of its measurements."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

ROOT = Path(__file__).parents[2]

WORK = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"


@pytest.fixture
def sizing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    return importlib.import_module("sizing")


def test_sizes_follow_from_costs_and_leave_room(sizing: ModuleType) -> None:
    assert sizing.hours_a_day(0.5) == pytest.approx(48 * sizing.BUSY)
    needed = sizing.cores(
        1000, 20, sizing.Cost(web=0.003, database=0.0006), sizing.Cost(web=0.03, database=0.006), rest=0.009
    )
    assert needed.web * sizing.BUSY == pytest.approx(1000 * 0.003 + 20 * 0.03)
    assert needed.database * sizing.BUSY == pytest.approx(1000 * 0.0006 + 20 * 0.015)


def test_time_of_processes_that_have_ended_counts(sizing: ModuleType) -> None:
    before = sizing.processor_seconds(psutil.Process())
    subprocess.run([sys.executable, "-c", WORK], check=True)
    assert sizing.processor_seconds(psutil.Process()) - before >= 0.2

"""The number of CPUs to compute on, and fresh threads to compute in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_fresh_thread(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Run a function on a thread of its own; return what it returns.

    PyTorch keeps a pool of OpenMP threads for each thread that ever multiplied something large. As soon as a
    process has more of them than CPUs, they sleep between two matmuls instead of waiting awake: on 2 CPUs a
    decoding step of MT3 then takes 1.8 times as long. So networks are built on a thread that ends, and its pool
    with it, and run on their engine's thread alone.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="fresh") as thread:
        return thread.submit(function, *args, **options).result()


def available_cpus(root: Path = Path("/")) -> int:
    """Return the CPUs that this process may use: by its affinity and by the quotas of its control groups.

    A share of a CPU does not count: two threads on 1.5 CPUs wait for each other. There is always one.

    Args:
        root: where /proc and /sys are.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *(int(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota of each control group that this process is in, from its own up to the topmost."""
    for group in _groups(root):
        # Version 2 has "QUOTA PERIOD" in one file, version 1 in two; "max" and -1 mean that there is none.
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (group / "cpu.max").read_text().split()
            yield int(quota) / int(period)
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                yield int(quota) / int(period)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of those control groups; some may not be visible in a container."""
    mounts = root / "sys" / "fs" / "cgroup"
    yield mounts  # that of a container, whose own path may not be visible in it
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = [".", "unified"]  # version 2, alone or beside version 1
        elif "cpu" in controllers.split(","):
            names = ["cpu", controllers]
        else:
            continue
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for name in names:
            for length in range(len(parts), -1, -1):
                yield mounts.joinpath(name, *parts[:length])

"""A checkpoint of a few bytes and sources that do what a test says. As a script: one process that fetches it.

python fakes.py ROOT CALLS [no-flock] [crash] [slow]
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from checkpoints.catalog import Catalog, Entry
from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile, SourceSpec
from checkpoints.store import CheckpointStore

WEIGHTS = bytes(range(256)) * 40
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()

Behavior = Callable[[Path, Callable[[int], None]], None]


class FakeSource:
    """Behaves as told and counts how often it was asked."""

    def __init__(self, label: str, behavior: Behavior) -> None:
        self.label = label
        self.calls = 0
        self._behavior = behavior

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> None:
        self.calls += 1
        self._behavior(part, progress)


def delivers(content: bytes) -> Behavior:
    def behavior(part: Path, progress: Callable[[int], None]) -> None:
        part.write_bytes(content)
        progress(len(content))

    return behavior


def fails(reason: str) -> Behavior:
    def behavior(part: Path, progress: Callable[[int], None]) -> None:
        raise SourceError(reason)

    return behavior


def make_store(root: Path, sources: Mapping[str, FakeSource], **options: Any) -> CheckpointStore:
    """A store that knows one checkpoint, `tiny`, of one file, to be had from those sources in that order."""
    specs = tuple(SourceSpec(kind, {}) for kind in sources)
    file = CheckpointFile("weights.bin", len(WEIGHTS), SHA256, specs)
    entry = Entry("tiny", ("small",), "MIT", "https://example.org", "nobody", (file,))
    options.setdefault("catalog", Catalog({"tiny": entry}))
    return CheckpointStore(root, open_source=lambda spec: sources[spec.kind], **options)


def main() -> None:
    """Fetch in this process, slowly, with a line in CALLS for each time that the source is asked."""
    root, calls, *flags = sys.argv[1:]
    if "no-flock" in flags:
        fcntl.flock = lambda *_: None

    def slowly(part: Path, progress: Callable[[int], None]) -> None:
        with open(calls, "a") as log:
            log.write(f"{part.stat().st_size}\n")
        with part.open("ab") as out:
            while out.tell() < len(WEIGHTS):
                if "crash" in flags and out.tell() > len(WEIGHTS) // 2:
                    os._exit(9)
                out.write(WEIGHTS[out.tell() : out.tell() + 512])
                out.flush()
                progress(out.tell())
                time.sleep(0.1 if "slow" in flags else 0.02)

    directory = make_store(Path(root), {"slow": FakeSource("slow", slowly)}).fetch("tiny")
    assert (directory / "weights.bin").read_bytes() == WEIGHTS


if __name__ == "__main__":
    main()

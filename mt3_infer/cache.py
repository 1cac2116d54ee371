"""Models that stay loaded from one call of `mt3_infer.transcribe` to the next."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

from mt3_infer.model import Model

CAPACITY = 2
"""Models that are kept: enough to compare two in one loop."""


@dataclass(eq=False)
class _Entry:
    """A model that is loaded, or is being loaded under the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    model: Model | None = None


class ModelCache:
    """Keeps the models that were used last. Threads that want the same one wait for one of them to load it."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self.reset()

    def reset(self) -> None:
        """Begin anew, whatever other threads are at."""
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Model]) -> Model:
        """Return the model of a key, loaded if it is not there."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._capacity:  # before the new one is loaded: memory may be short
                self._entries.popitem(last=False)
        with entry.lock:
            if entry.model is None:
                try:
                    entry.model = load()
                except BaseException:
                    self._forget(key, entry)
                    raise
            return entry.model

    def clear(self) -> None:
        """Release all models."""
        with self._lock:
            self._entries.clear()

    def _forget(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]


def fingerprint(checkpoint: Path) -> Hashable:
    """Return what changes when a checkpoint is replaced: names, sizes and times of its files."""
    if checkpoint.is_dir():
        files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    else:
        files = [path for path in (checkpoint, checkpoint.parent / "config.json") if path.is_file()]
    stats = [(path, path.stat()) for path in files]
    return checkpoint.resolve(), *((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)


models = ModelCache()


def clear_cache() -> None:
    """Release the models that `transcribe` keeps, and their memory."""
    models.clear()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


# A forked process has none of its parent's threads, and what they held stays locked.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=models.reset)

"""Brings checkpoints onto the disk: look, lock, look again, room, `.part`, verify, rename, mark.

The invariant: **no file gets its final name unless its bytes were verified**, whatever dies on the way and
whether or not locks hold. It rests on three things. Each download writes a `.part` whose name no other process
knows, so nobody can change bytes between their verification and the rename. What an interrupted download left is
*copied* to begin the next one, never taken over, since its writer may be alive. A rename is atomic.

    ROOT/basic_pitch/nmp.onnx              verified
    ROOT/basic_pitch/.verified.json        the marker: what was verified, and how the file looked then
    ROOT/basic_pitch/.nmp.onnx.5f3a.part   a download in hand, or what one left
    ROOT/.locks/basic_pitch.lock, .json    the lock; how far its holder is, for those who wait
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from checkpoints.catalog import Catalog, Entry, load_catalog
from checkpoints.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ChecksumError,
    DiskSpaceError,
    DownloadError,
    LockTimeoutError,
    OfflineError,
    SourceError,
    StoreNotWritableError,
)
from checkpoints.files import CheckpointFile, resume_note, why_wrong
from checkpoints.locks import HostLock, LockFactory
from checkpoints.sources import SourceFactory, open_source

_log = logging.getLogger(__name__)

_MARKER = ".verified.json"
_SPACE_FACTOR = 1.2
_POLL_SECONDS = 0.25  # how often a waiter looks how far the holder is
_NOTE_SECONDS = 0.5  # how often the holder tells
_YES, _NO = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def default_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Where checkpoints are kept: `MT3_CHECKPOINT_DIR`, else in the user's cache folder."""
    if chosen := environ.get("MT3_CHECKPOINT_DIR"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mt3-infer" / "checkpoints"


@dataclass(frozen=True)
class FetchProgress:
    """How far a fetch is.

    Attributes:
        model: the catalogue's name of the checkpoint.
        file: the file in hand.
        bytes_done, bytes_total: of all its files together.
        bytes_per_second: measured since this fetch began; 0 until it is known.
        waiting: another process downloads; the figures are that process's.
    """

    model: str
    file: str
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    waiting: bool


ProgressCallback = Callable[[FetchProgress], None]


class CheckpointStore:
    """A directory of verified checkpoints; safe for many threads, processes and hosts at once.

    Args:
        root: created when something is first fetched; `default_root()` without it.
        offline: never connect to anything.
        locks: makes the lock that a download is done under.
        catalog: which checkpoints there are.
        open_source: builds a source from its row in the catalogue.
        lock_timeout: seconds to wait for another process that shows no progress.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        offline: bool = False,
        locks: LockFactory = HostLock,
        catalog: Catalog | None = None,
        open_source: SourceFactory = open_source,
        lock_timeout: float = 600.0,
    ) -> None:
        self.root = root if root is not None else default_root()
        self.offline = offline
        self.catalog = catalog if catalog is not None else load_catalog()
        self._locks = locks
        self._open_source = open_source
        self._lock_timeout = lock_timeout
        # Verdicts on files that no marker speaks for, by how they looked: a store that cannot be written to
        # (a read-only image) hashes each file once per process, not once per call.
        self._verdicts: dict[tuple[Path, int, int], str | None] = {}

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] = os.environ, *, locks: LockFactory = HostLock
    ) -> CheckpointStore:
        """Open the user's store: at `default_root()`; `MT3_OFFLINE=1` forbids connections."""
        word = environ.get("MT3_OFFLINE", "").strip().lower()
        if word not in _NO | _YES:
            raise CheckpointError(f"MT3_OFFLINE is {word!r}; it can be 1 or 0.")
        return cls(default_root(environ), offline=word in _YES, locks=locks)

    def fetch(self, name: str, progress: ProgressCallback | None = None) -> Path:
        """Give the directory that holds the checkpoint's verified files, downloading those that are missing.

        Args:
            name: name or alias.
            progress: told how far the download is; what it raises ends the fetch and is let through.
        Raises:
            UnknownCheckpointError, OfflineError, StoreNotWritableError, LockTimeoutError, DiskSpaceError,
            DownloadError (names each source and why), ChecksumError (every source gave wrong bytes).
        """
        entry = self.catalog.resolve(name)
        if not self._missing(entry):
            return self._folder(entry)
        if self.offline:
            raise self._offline_error(entry)
        report = progress or (lambda _: None)
        with self._writable(), self._locked(entry, report):
            missing = self._missing(entry)  # another process may have installed it while we waited
            if missing:
                self._require_space(entry, missing)
                self._install(entry, missing, report)
        return self._folder(entry)

    def directory(self, name: str) -> Path | None:
        """Give the directory of an installed checkpoint; None if it is not (wholly) installed."""
        entry = self.catalog.resolve(name)
        return None if self._missing(entry) else self._folder(entry)

    def is_installed(self, name: str) -> bool:
        """Say whether every file is there and verified. Cheap: sizes and times against the marker."""
        return self.directory(name) is not None

    def require(self, name: str) -> Path:
        """Give the directory of a checkpoint that must be installed already.

        Raises:
            CheckpointNotFoundError: with the command that would fetch it.
        """
        directory = self.directory(name)
        if directory is None:
            entry = self.catalog.resolve(name)
            raise CheckpointNotFoundError(
                f"The checkpoint {entry.name} is not installed in {self._folder(entry)}; "
                f"fetch it with: mt3-infer download {entry.name}"
            )
        return directory

    def verify(self, name: str) -> None:
        """Hash every file again.

        Raises:
            CheckpointNotFoundError: a file is missing.
            ChecksumError: a file is damaged; the checkpoint no longer counts as installed.
        """
        entry = self.catalog.resolve(name)
        folder = self._folder(entry)
        for file in entry.files:
            try:
                wrong = why_wrong(folder / file.name, file)
            except FileNotFoundError:
                raise CheckpointNotFoundError(
                    f"The checkpoint {entry.name} is not installed: {folder / file.name} is missing."
                ) from None
            if wrong:
                self._verdicts.clear()
                (folder / _MARKER).unlink(missing_ok=True)
                raise ChecksumError(f"The checkpoint {entry.name} is damaged: {folder / file.name}: {wrong}.")

    def remove(self, name: str) -> bool:
        """Delete a checkpoint with all that interrupted downloads left; say whether there was anything."""
        entry = self.catalog.resolve(name)
        folder = self._folder(entry)
        if not folder.exists():
            return False
        with self._writable(), self._locked(entry, lambda _: None):
            (folder / _MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder)
        return True

    # Looking

    def _folder(self, entry: Entry) -> Path:
        return self.root / entry.name

    def _missing(self, entry: Entry) -> list[CheckpointFile]:
        """Give the files that are not there or not verified; files that were copied in are verified here."""
        folder = self._folder(entry)
        marked = _read_json(folder / _MARKER)
        seen = {file.name: _appearance(folder / file.name, file) for file in entry.files}
        if all(look is not None and marked.get(name) == look for name, look in seen.items()):
            return []
        missing = [file for file in entry.files if self._why_unusable(folder / file.name, file) is not None]
        if not missing:
            # Written as the files looked before they were hashed: a later change shows.
            with suppress(OSError):
                _write_json(folder / _MARKER, seen)
                self._verdicts.clear()  # from here on the marker speaks
        return missing

    def _why_unusable(self, path: Path, file: CheckpointFile) -> str | None:
        try:
            stat = path.stat()
            key = (path, stat.st_size, stat.st_mtime_ns)
            with suppress(KeyError):  # asked once: another thread may clear them between two looks
                return self._verdicts[key]
            verdict = self._verdicts[key] = why_wrong(path, file)
        except FileNotFoundError:
            return "it is not there"
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        return verdict

    def _offline_error(self, entry: Entry) -> OfflineError:
        folder = self._folder(entry)
        wanted = [
            f"{file.name} ({file.size:,} bytes, sha256 {file.sha256}; now "
            f"{self._why_unusable(folder / file.name, file)})"
            for file in self._missing(entry)
        ]
        return OfflineError(
            f"The checkpoint {entry.name} is not installed and offline mode (MT3_OFFLINE) forbids downloads: "
            f"copy {', '.join(wanted)} to {folder}, for example from a machine "
            f"where `mt3-infer download {entry.name}` was run."
        )

    # Preparing

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Turn the refusals of the file system into sentences."""
        try:
            yield
        except OSError as error:
            if error.errno in _NOT_WRITABLE:
                raise StoreNotWritableError(
                    f"The checkpoint directory {self.root} cannot be written to ({error.strerror}); "
                    "set MT3_CHECKPOINT_DIR to one that can."
                ) from error
            if error.errno in _DISK_FULL:
                raise DiskSpaceError(
                    f"The disk of the checkpoint directory {self.root} is full; what was downloaded is kept."
                ) from error
            raise

    @contextmanager
    def _locked(self, entry: Entry, report: ProgressCallback) -> Iterator[None]:
        """Hold the checkpoint's lock; while another holds it, report how far that one is."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        note = folder / f"{entry.name}.json"
        lock = self._locks(entry.name, folder / f"{entry.name}.lock")
        last_note, last_change = _read_json(note), time.monotonic()
        while not lock.acquire(_POLL_SECONDS):
            current = _read_json(note)
            if current != last_note:
                last_note, last_change = current, time.monotonic()
            if time.monotonic() - last_change > self._lock_timeout:
                raise LockTimeoutError(
                    f"Another process has been downloading the checkpoint {entry.name} and has shown "
                    f"no progress for {self._lock_timeout:g} s."
                )
            report(_waiting(entry, current))
        try:
            yield
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)
            lock.release()

    def _require_space(self, entry: Entry, missing: list[CheckpointFile]) -> None:
        need = int(_SPACE_FACTOR * sum(file.size for file in missing))
        have = shutil.disk_usage(self.root).free
        if have < need:
            raise DiskSpaceError(
                f"The checkpoint {entry.name} needs {need:,} bytes in {self.root}, where {have:,} are free."
            )

    # Installing

    def _install(self, entry: Entry, missing: list[CheckpointFile], report: ProgressCallback) -> None:
        tell = _Teller(entry, self.root / ".locks" / f"{entry.name}.json", report)
        done = entry.size - sum(file.size for file in missing)
        for file in missing:
            tell.begin(file, done)
            self._install_file(entry, file, tell)
            tell(file.size)
            done += file.size
        if self._missing(entry):  # writes the marker
            raise ChecksumError(f"The checkpoint {entry.name} changed while it was being installed.")

    def _install_file(self, entry: Entry, file: CheckpointFile, progress: Callable[[int], None]) -> None:
        """Download one file; again if another process, let in by a lock that lies, swept our part away.

        Only the first try sweeps, so that processes cannot go on doing that to each other.
        """
        path = self._folder(entry) / file.name
        for sweep in (True, False, False, False):
            path.parent.mkdir(exist_ok=True)
            part = _begin_part(path, sweep=sweep)
            try:
                self._download(entry, file, part, progress)
                _fsync(part)
                part.replace(path)
                _fsync(path.parent)
            except FileNotFoundError:
                if part.exists():
                    raise
            else:
                return
            finally:
                if _size(part) == 0:  # renamed, or nothing came: no part, or none worth keeping, and its note
                    _remove_part(part)
            if self._why_unusable(path, file) is None:
                return  # that process has installed it
        raise CheckpointError(f"Other processes keep removing the download of {entry.name} in {self.root}.")

    def _download(self, entry: Entry, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> None:
        """Try the sources in order until `part` holds the verified bytes."""
        failures: list[tuple[str, CheckpointError]] = []
        for source in map(self._open_source, file.sources):
            try:
                sha256 = source.fetch(file, part, progress)
                if wrong := why_wrong(part, file, sha256):
                    part.write_bytes(b"")  # nothing to continue from
                    resume_note(part).unlink(missing_ok=True)
                    raise ChecksumError(f"what came is not {file.name}: {wrong}")
            except (SourceError, ChecksumError) as error:
                failures.append((source.label, error))
                _log.warning("checkpoint %s: %s failed: %s", entry.name, source.label, error)
            else:
                return
        attempts = [(label, str(error)) for label, error in failures]
        message = (
            f"The checkpoint {entry.name} could not be downloaded: {file.name} "
            + "; ".join(f"from {label}: {reason}" for label, reason in attempts)
            + "."
        )
        if all(isinstance(error, ChecksumError) for _, error in failures):
            raise ChecksumError(message)
        raise DownloadError(message, attempts)


class _Teller:
    """Tells the caller, and those who wait for the lock, how far a download is."""

    def __init__(self, entry: Entry, note: Path, report: ProgressCallback) -> None:
        self._entry = entry
        self._note = note
        self._report = report
        self._file = entry.files[0]
        self._before = 0  # bytes of the files that are done
        self._start: tuple[float, int] | None = None  # time and bytes of the first figures
        self._noted = -_NOTE_SECONDS
        self._beats = 0

    def begin(self, file: CheckpointFile, before: int) -> None:
        """Turn to a file, with `before` bytes of others done."""
        self._file, self._before = file, before

    def __call__(self, bytes_of_file: int) -> None:
        now, done = time.monotonic(), self._before + bytes_of_file
        self._start = self._start or (now, done)
        seconds, received = now - self._start[0], done - self._start[1]
        speed = max(0.0, received / seconds) if seconds else 0.0
        progress = FetchProgress(self._entry.name, self._file.name, done, self._entry.size, speed, waiting=False)
        if now - self._noted >= _NOTE_SECONDS:
            self._noted = now
            self._beats += 1
            with suppress(OSError):
                # The beat changes even while the bytes do not: a holder that works is not a holder that hangs.
                _write_json(self._note, {**asdict(progress), "beat": self._beats})
        self._report(progress)


def _waiting(entry: Entry, note: dict[str, Any]) -> FetchProgress:
    blank = FetchProgress(entry.name, entry.files[0].name, 0, entry.size, 0.0, waiting=True)
    figures = {key: value for key, value in note.items() if key != "beat"}
    with suppress(TypeError):
        return replace(blank, **{**figures, "waiting": True})
    return blank


def _appearance(path: Path, file: CheckpointFile) -> dict[str, Any] | None:
    """How a verified file looks; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": file.sha256}


def _begin_part(path: Path, *, sweep: bool) -> Path:
    """Create a part of our own with the most that an earlier download left; sweep those away if asked to."""
    leftovers = list(path.parent.glob(f".{path.name}.{'[0-9a-f]' * 32}.part"))
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    part.touch()
    for leftover in sorted(leftovers, key=_size, reverse=True):
        # Only its writer, if alive after all, removes it between our look and our copy.
        with suppress(FileNotFoundError):
            if _size(part) == 0:
                shutil.copyfile(leftover, part)
                shutil.copyfile(resume_note(leftover), resume_note(part))
        if sweep:
            _remove_part(leftover)
    return part


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove_part(part: Path) -> None:
    part.unlink(missing_ok=True)
    resume_note(part).unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        part.write_text(json.dumps(content))
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

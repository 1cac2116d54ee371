"""The directory of checkpoints: look, lock, look again, room, install, mark.

ROOT/basic_pitch/nmp.onnx              verified
ROOT/basic_pitch/.verified.json        the marker: what was verified, and how the file looked then
ROOT/basic_pitch/.nmp.onnx.5f3a.part   a download in hand, or what one left (see install.py)
ROOT/.locks/basic_pitch.lock, .json    the lock; how far its holder is, for those who wait
ROOT/.pins/mr_mt3.json                 sums that the first download taught (see pins.py)
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

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
)
from checkpoints.files import CheckpointFile, SourceSpec, sha256_of, why_wrong
from checkpoints.install import clear_refusals, install_file
from checkpoints.locks import HostLock, Lock, LockFactory
from checkpoints.mirror import Mirror, open_mirror
from checkpoints.pins import pin, read_json, with_pins, write_json
from checkpoints.progress import FetchProgress, ProgressCallback, Teller, heard_progress
from checkpoints.sources import Source, SourceFactory, open_source

__all__ = ["CheckpointStore", "FetchProgress", "ProgressCallback", "default_root", "is_offline"]

_log = logging.getLogger(__name__)

_MARKER = ".verified.json"
_SPACE_FACTOR = 1.2
_POLL_SECONDS = 0.25  # how often a waiter looks how far the holder is
_YES, _NO = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}

SourcesOf = Callable[[CheckpointFile], list[Source]]


def default_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Where checkpoints are kept: `MT3_CHECKPOINT_DIR`, else in the user's cache folder."""
    if chosen := environ.get("MT3_CHECKPOINT_DIR"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mt3-infer" / "checkpoints"


def is_offline(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `MT3_OFFLINE` forbids connections.

    Raises:
        CheckpointError: it says neither yes nor no.
    """
    word = environ.get("MT3_OFFLINE", "").strip().lower()
    if word not in _NO | _YES:
        raise CheckpointError(f"MT3_OFFLINE is {word!r}; it can be 1 or 0.")
    return word in _YES


class CheckpointStore:
    """A directory of verified checkpoints; safe for many threads, processes and hosts at once.

    Args:
        root: created when something is first fetched; `default_root()` without it.
        offline: never connect to anything.
        locks: makes the lock that a download is done under.
        catalog: which checkpoints there are.
        mirror: asked before all other sources, and given what came from one of those.
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
        mirror: Mirror | None = None,
        open_source: SourceFactory = open_source,
        lock_timeout: float = 600.0,
    ) -> None:
        self.root = root if root is not None else default_root()
        self.offline = offline
        self.catalog = catalog if catalog is not None else load_catalog()
        self._locks = locks
        self._mirror = mirror
        self._open_source = open_source
        self._lock_timeout = lock_timeout
        # Verdicts on files that no marker speaks for, by how they looked: a store that cannot be written to
        # (a read-only image) hashes each file once per process, not once per call.
        self._verdicts: dict[tuple[Path, str | None, int, int], str | None] = {}

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] = os.environ, *, locks: LockFactory = HostLock
    ) -> CheckpointStore:
        """Open the user's store: at `default_root()`, with the mirror that `MT3_CHECKPOINT_MIRROR` names.

        `MT3_OFFLINE=1` forbids connections; `MT3_CHECKPOINT_CATALOG` names a catalogue to use instead of ours.
        """
        mirror, catalog = environ.get("MT3_CHECKPOINT_MIRROR"), environ.get("MT3_CHECKPOINT_CATALOG")
        return cls(
            default_root(environ),
            offline=is_offline(environ),
            locks=locks,
            catalog=load_catalog(Path(catalog)) if catalog else None,
            mirror=open_mirror(mirror, environ) if mirror else None,
        )

    def entry(self, name: str) -> Entry:
        """Give the catalogue's entry of that name or alias, with the sums that were learnt here.

        Raises:
            UnknownCheckpointError: there is none.
        """
        return with_pins(self.root, self.catalog.resolve(name))

    def fetch(
        self,
        name: str,
        progress: ProgressCallback | None = None,
        *,
        force: bool = False,
        source: str | None = None,
    ) -> Path:
        """Give the directory that holds the checkpoint's verified files, downloading those that are missing.

        Args:
            name: name or alias.
            progress: told how far the download is; what it raises ends the fetch and is let through.
            force: download even what is there.
            source: only from this kind of source (and not from the mirror, unless it is "mirror").
        Raises:
            UnknownCheckpointError, OfflineError, StoreNotWritableError, LockTimeoutError, DiskSpaceError,
            DownloadError (names each source and why), ChecksumError (every source gave wrong bytes),
            CheckpointError (no file of it can be had from such a source).
        """
        entry = self.entry(name)
        if not force and not self._missing(entry):
            return self._folder(entry)
        if self.offline:
            raise self._offline_error(entry)
        if source is not None:
            self._require_kind(entry, source)
        if self._mirror is not None and source is None:
            # A mirror is there to be asked by many at once: what it has needs no lock between machines.
            with suppress(DownloadError, ChecksumError):
                return self._fetch(entry, self._mirror_alone(entry), progress, locks=HostLock, force=force)
        return self._fetch(entry, lambda file: self._sources(entry, file, source), progress, force=force)

    def install(
        self, name: str, source_of: Callable[[CheckpointFile], Source], progress: ProgressCallback | None = None
    ) -> Path:
        """Do as `fetch` does, from sources of the caller's own; offline mode does not forbid it."""
        return self._fetch(self.entry(name), lambda file: [source_of(file)], progress)

    def fill_mirror(self, name: str, progress: ProgressCallback | None = None) -> None:
        """Put every file of a checkpoint into the mirror, fetching what is not here.

        Raises:
            CheckpointError: there is no mirror, or it does not take the files; and what `fetch` raises.
        """
        if self._mirror is None:
            raise CheckpointError("No mirror is set: MT3_CHECKPOINT_MIRROR names one.")
        entry = self.entry(name)
        folder = self.fetch(name, progress)
        for file in entry.files:
            try:
                self._mirror.put(entry.name, file.name, folder / file.name)
            except SourceError as error:
                raise CheckpointError(f"The mirror does not take {entry.name}/{file.name}: {error}.") from error

    def directory(self, name: str) -> Path | None:
        """Give the directory of an installed checkpoint; None if it is not (wholly) installed."""
        entry = self.entry(name)
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
            entry = self.entry(name)
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
        entry = self.entry(name)
        folder = self._folder(entry)
        for file in entry.files:
            try:
                wrong = why_wrong(folder / file.name, file)
            except FileNotFoundError:
                raise CheckpointNotFoundError(
                    f"The checkpoint {entry.name} is not installed: {folder / file.name} is missing."
                ) from None
            if file.sha256 is None:
                raise CheckpointNotFoundError(
                    f"The checkpoint {entry.name} is not installed: "
                    f"nobody knows the sha256 of {folder / file.name}."
                )
            if wrong:
                self._verdicts.clear()
                (folder / _MARKER).unlink(missing_ok=True)
                raise ChecksumError(f"The checkpoint {entry.name} is damaged: {folder / file.name}: {wrong}.")

    def remove(self, name: str) -> bool:
        """Delete a checkpoint with all that interrupted downloads left; say whether there was anything."""
        entry = self.entry(name)
        folder = self._folder(entry)
        if not folder.exists():
            return False
        with self._refusals(), self._locked(entry, lambda _: None, self._locks):
            (folder / _MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder)
        return True

    # Looking

    def _folder(self, entry: Entry) -> Path:
        return self.root / entry.name

    def _missing(self, entry: Entry) -> list[CheckpointFile]:
        """Give the files that are not there or not verified; files that were copied in are verified here."""
        folder = self._folder(entry)
        marked = read_json(folder / _MARKER)
        seen = {file.name: _appearance(folder / file.name, file) for file in entry.files}
        if all(look is not None and marked.get(name) == look for name, look in seen.items()):
            return []
        missing = [file for file in entry.files if self._why_unusable(folder / file.name, file) is not None]
        if not missing:
            # Written as the files looked before they were hashed: a later change shows.
            with suppress(OSError):
                write_json(folder / _MARKER, seen)
                self._verdicts.clear()  # from here on the marker speaks
        return missing

    def _why_unusable(self, path: Path, file: CheckpointFile) -> str | None:
        try:
            stat = path.stat()
            if file.sha256 is None:
                return "it is there, but its sha256 is not known yet"
            key = (path, file.sha256, stat.st_size, stat.st_mtime_ns)
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
            f"{file.name} ({file.size:,} bytes, sha256 {file.sha256 or 'not known yet'}; now "
            f"{self._why_unusable(folder / file.name, file)})"
            for file in self._missing(entry)
        ]
        return OfflineError(
            f"The checkpoint {entry.name} is not installed and offline mode (MT3_OFFLINE) forbids downloads: "
            f"copy {', '.join(wanted)} to {folder}, for example from a machine "
            f"where `mt3-infer download {entry.name}` was run."
        )

    # Preparing

    def _fetch(
        self,
        entry: Entry,
        sources_of: SourcesOf,
        progress: ProgressCallback | None,
        *,
        force: bool = False,
        locks: LockFactory | None = None,
    ) -> Path:
        report = progress or (lambda _: None)
        with self._refusals(), self._locked(entry, report, locks or self._locks) as lock:
            # Another process may have installed it while we waited.
            missing = list(entry.files) if force else self._missing(self.entry(entry.name))
            if missing:
                self._require_space(entry, missing)
                self._install(entry, missing, sources_of, Teller(entry, lock.tell, report))
        return self._folder(entry)

    def _require_kind(self, entry: Entry, kind: str) -> None:
        kinds = {spec.kind for file in entry.files for spec in _with_git(file)}
        if self._mirror is not None:
            kinds.add("mirror")
        if kind not in kinds:
            raise CheckpointError(
                f"The checkpoint {entry.name} is not to be had from {kind!r}; its sources are: "
                f"{', '.join(sorted(kinds))}."
            )

    def _sources(self, entry: Entry, file: CheckpointFile, kind: str | None) -> list[Source]:
        """Where to ask for a file, in order; with a kind: those of that kind, if it has any."""
        mirror = [self._mirror.source(entry.name, file.name)] if self._mirror else []
        if kind == "mirror":
            return mirror
        chosen = [spec for spec in _with_git(file) if spec.kind == kind]
        return [*([] if kind else mirror), *map(self._open_source, chosen or file.sources)]

    def _mirror_alone(self, entry: Entry) -> SourcesOf:
        return lambda file: self._sources(entry, file, "mirror")

    def _refusals(self) -> AbstractContextManager[None]:
        return clear_refusals(self.root, "checkpoint directory", "set MT3_CHECKPOINT_DIR to one that can")

    @contextmanager
    def _locked(self, entry: Entry, report: ProgressCallback, locks: LockFactory) -> Iterator[Lock]:
        """Hold the checkpoint's lock; while another holds it, report how far that one is."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = locks(entry.name, folder / f"{entry.name}.lock")
        last_word, last_change = lock.heard(), time.monotonic()
        while not lock.acquire(_POLL_SECONDS):
            word = lock.heard()
            if word != last_word:
                last_word, last_change = word, time.monotonic()
            if time.monotonic() - last_change > self._lock_timeout:
                raise LockTimeoutError(
                    f"Another process has been downloading the checkpoint {entry.name} and has shown "
                    f"no progress for {self._lock_timeout:g} s."
                )
            report(heard_progress(entry, word))
        try:
            yield lock
        finally:
            lock.release()

    def _require_space(self, entry: Entry, missing: list[CheckpointFile]) -> None:
        need = int(_SPACE_FACTOR * sum(file.size for file in missing))
        have = shutil.disk_usage(self.root).free
        if have < need:
            raise DiskSpaceError(
                f"The checkpoint {entry.name} needs {need:,} bytes in {self.root}, where {have:,} are free."
            )

    # Installing

    def _install(self, entry: Entry, missing: list[CheckpointFile], sources_of: SourcesOf, tell: Teller) -> None:
        done = entry.size - sum(file.size for file in missing)
        for file in missing:
            tell.begin(file, done)
            self._install_file(entry, file, sources_of(file), tell)
            tell(file.size)
            done += file.size
        if self._missing(self.entry(entry.name)):  # writes the marker
            raise ChecksumError(f"The checkpoint {entry.name} changed while it was being installed.")

    def _install_file(self, entry: Entry, file: CheckpointFile, sources: list[Source], tell: Teller) -> None:
        def learn(part: Path, source: Source) -> None:
            if file.sha256 is None:
                pin(self.root, entry, file, part.stat().st_size, sha256_of(part), origin=source.label)

        path = self._folder(entry) / file.name
        delivered = install_file(path, file, sources, tell, title=f"The checkpoint {entry.name}", accept=learn)
        if self._mirror is not None and delivered is not None:
            self._offer_to_mirror(entry, file, delivered, tell)

    def _offer_to_mirror(self, entry: Entry, file: CheckpointFile, delivered: Source, tell: Teller) -> None:
        """Let the mirror have what came from elsewhere; ours is installed whether it takes it or not."""
        assert self._mirror is not None
        if delivered.label == self._mirror.source(entry.name, file.name).label:
            return
        tell(file.size)
        try:
            self._mirror.put(entry.name, file.name, self._folder(entry) / file.name)
        except SourceError as error:
            _log.warning("the mirror does not take %s/%s: %s", entry.name, file.name, error)


def _with_git(file: CheckpointFile) -> list[SourceSpec]:
    """The sources of a file, and git itself for what we would get from a Git host without it."""
    git = [SourceSpec("git", spec.options) for spec in file.sources if spec.kind == "git_lfs"]
    return [*file.sources, *git]


def _appearance(path: Path, file: CheckpointFile) -> dict[str, Any] | None:
    """How a verified file looks; None if it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": file.sha256}

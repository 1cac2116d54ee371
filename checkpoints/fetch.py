"""Fill the store: look, lock, look again, check the disk space, fetch, mark."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.catalog import Entry
from checkpoints.errors import (
    CheckpointError,
    ChecksumError,
    DiskSpaceError,
    DownloadError,
    LockTimeoutError,
    OfflineError,
    SourceError,
)
from checkpoints.files import CheckpointFile, SourceSpec, sha256_of
from checkpoints.install import install_file, translate_os_errors
from checkpoints.locks import HostLock, Lock, LockFactory
from checkpoints.mirror import Mirror
from checkpoints.pins import pin
from checkpoints.progress import ProgressCallback, ProgressReporter, parse_progress
from checkpoints.sources import Source

if TYPE_CHECKING:
    from checkpoints.store import CheckpointStore

_log = logging.getLogger(__name__)

_SPACE_FACTOR = 1.2
_POLL_SECONDS = 0.25  # how often a waiter looks at the holder's progress

SourcesOf = Callable[[CheckpointFile], list[Source]]


def fetch(
    store: CheckpointStore, entry: Entry, report: ProgressCallback, *, force: bool = False, kind: str | None = None
) -> Path:
    """Choose where to fetch from, and fetch what is missing; see `CheckpointStore.fetch`."""
    if not force and not store.missing(entry):
        return store.folder(entry)
    if store.offline:
        raise _offline_error(store, entry)
    if kind is not None:
        _require_kind(store, entry, kind)
    if store.mirror is not None and kind is None:
        # A mirror is there to be asked by many at once: what it has needs no lock between machines.
        with suppress(DownloadError, ChecksumError):
            from_mirror = _sources_of(store, entry, "mirror")
            return fetch_missing(store, entry, from_mirror, report, HostLock, force=force)
    return fetch_missing(store, entry, _sources_of(store, entry, kind), report, store.locks, force=force)


def fetch_missing(
    store: CheckpointStore,
    entry: Entry,
    sources_of: SourcesOf,
    report: ProgressCallback,
    locks: LockFactory,
    *,
    force: bool = False,
) -> Path:
    """Download the files that are not there or not verified, from the sources given."""
    with os_errors_translated(store), locked(store, entry, report, locks) as lock:
        # Look again: another process may have installed it during the wait for the lock.
        missing = list(entry.files) if force else store.missing(store.entry(entry.name))
        if not missing:
            return store.folder(entry)

        # Disk space: an error now is better than one after half an hour.
        _require_space(store, entry, missing)

        # Fetch: each file gets its name only with verified bytes in it.
        reporter = ProgressReporter(entry, lock.publish, report)
        done = entry.size - sum(file.size for file in missing)
        for file in missing:
            reporter.begin(file, done)
            _fetch_file(store, entry, file, sources_of(file), reporter)
            reporter(file.size)
            done += file.size

        # Mark: looking at all files writes the marker.
        if store.missing(store.entry(entry.name)):
            raise ChecksumError(f"The checkpoint {entry.name} changed while it was being installed.")
    return store.folder(entry)


def fill_mirror(store: CheckpointStore, entry: Entry, report: ProgressCallback) -> None:
    """Put every file of a checkpoint into the mirror; see `CheckpointStore.fill_mirror`."""
    if store.mirror is None:
        raise CheckpointError("No mirror is set: MT3_CHECKPOINT_MIRROR names one.")
    folder = fetch(store, entry, report)
    for file in entry.files:
        try:
            store.mirror.put(entry.name, file.name, folder / file.name)
        except SourceError as error:
            raise CheckpointError(f"The mirror does not take {entry.name}/{file.name}: {error}.") from error


@contextmanager
def locked(store: CheckpointStore, entry: Entry, report: ProgressCallback, locks: LockFactory) -> Iterator[Lock]:
    """Hold the checkpoint's lock; while another process holds it, report that one's progress."""
    folder = store.root / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = locks(entry.name, folder / f"{entry.name}.lock")
    note, changed_at = lock.latest(), time.monotonic()
    while not lock.acquire(_POLL_SECONDS):
        latest = lock.latest()
        if latest != note:
            note, changed_at = latest, time.monotonic()
        if time.monotonic() - changed_at > store.lock_timeout:
            raise LockTimeoutError(
                f"Another process has been downloading the checkpoint {entry.name} and has shown "
                f"no progress for {store.lock_timeout:g} s."
            )
        report(parse_progress(entry, latest))
    try:
        yield lock
    finally:
        lock.release()


def os_errors_translated(store: CheckpointStore) -> AbstractContextManager[None]:
    """Translate OSErrors into errors that name the store's directory."""
    return translate_os_errors(store.root, "checkpoint directory", "set MT3_CHECKPOINT_DIR to one that can")


def _sources_of(store: CheckpointStore, entry: Entry, kind: str | None) -> SourcesOf:
    """Return where to ask for a file, in order; with a kind: those of that kind, if it has any."""

    def sources_of(file: CheckpointFile) -> list[Source]:
        mirror = [store.mirror.source(entry.name, file.name)] if store.mirror else []
        if kind == "mirror":
            return mirror
        chosen = [spec for spec in _with_git(file) if spec.kind == kind]
        return [*([] if kind else mirror), *map(store.open_source, chosen or file.sources)]

    return sources_of


def _require_kind(store: CheckpointStore, entry: Entry, kind: str) -> None:
    kinds = {spec.kind for file in entry.files for spec in _with_git(file)}
    if store.mirror is not None:
        kinds.add("mirror")
    if kind not in kinds:
        raise CheckpointError(
            f"The checkpoint {entry.name} is not available from {kind!r}; available sources: "
            f"{', '.join(sorted(kinds))}."
        )


def _with_git(file: CheckpointFile) -> list[SourceSpec]:
    """Return the sources of a file, and git itself for what comes from a Git host without it."""
    git = [SourceSpec("git", spec.options) for spec in file.sources if spec.kind == "git_lfs"]
    return [*file.sources, *git]


def _offline_error(store: CheckpointStore, entry: Entry) -> OfflineError:
    wanted = [
        f"{file.name} ({file.size:,} bytes, sha256 {file.sha256 or 'not known yet'}; now "
        f"{store.unusable_reason(entry, file)})"
        for file in store.missing(entry)
    ]
    return OfflineError(
        f"The checkpoint {entry.name} is not installed and offline mode (MT3_OFFLINE) forbids downloads: "
        f"copy {', '.join(wanted)} to {store.folder(entry)}, for example from a machine "
        f"where `mt3-infer download {entry.name}` was run."
    )


def _require_space(store: CheckpointStore, entry: Entry, missing: Sequence[CheckpointFile]) -> None:
    need = int(_SPACE_FACTOR * sum(file.size for file in missing))
    have = shutil.disk_usage(store.root).free
    if have < need:
        raise DiskSpaceError(
            f"The checkpoint {entry.name} needs {need:,} bytes in {store.root}, where {have:,} are free."
        )


def _fetch_file(
    store: CheckpointStore, entry: Entry, file: CheckpointFile, sources: list[Source], reporter: ProgressReporter
) -> None:
    """Install one file, pin its sum if the catalog has none, and add it to the mirror if it was not there."""

    def learn(part: Path, source: Source) -> None:
        if file.sha256 is None:
            pin(store.root, entry, file, part.stat().st_size, sha256_of(part), origin=source.label)

    path = store.folder(entry) / file.name
    delivered = install_file(path, file, sources, reporter, title=f"The checkpoint {entry.name}", accept=learn)
    if store.mirror is not None and delivered is not None:
        reporter(file.size)
        _offer_to_mirror(store.mirror, entry, file, delivered, path)


def _offer_to_mirror(mirror: Mirror, entry: Entry, file: CheckpointFile, delivered: Source, path: Path) -> None:
    """Upload a file to the mirror; a failure is logged, since the file is installed either way."""
    if delivered.label == mirror.source(entry.name, file.name).label:
        return
    try:
        mirror.put(entry.name, file.name, path)
    except SourceError as error:
        _log.warning("the mirror does not take %s/%s: %s", entry.name, file.name, error)

"""The sweeper: removes expired jobs and unreferenced files.

These are jobs that ended long ago; files of deleted jobs, once no worker can still be writing them; and orphans:
recordings whose row was never written, results, shards and exports of lost attempts, parts of unfinished writes.
The database decides what is an orphan, not its name, and only if it is old: what is being written is recent.
Files of a time that the database does not know, as after a restore, are kept: see `shared.watches`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from uuid import UUID

from shared import garbage, jobs, uploads, watches, worker_registry
from shared.config import Settings
from shared.db import Sessions
from shared.errors import ServiceError
from shared.locks import DatabaseLock
from shared.logs import get_logger
from shared.parts import make_parts, parts_prefix
from shared.storage import ListedObject, ObjectStorage, export_prefix, result_prefix, shard_prefix, upload_prefix
from shared.watches import Watcher
from worker.scheduler_metrics import STORED_BYTES, UNKNOWN_BYTES
from worker.steps import Steps

log = get_logger(__name__)

ORPHANS_SECONDS = 3600.0  # between two searches of all of storage
BATCH = 200
PREFIXES: dict[str, Callable[..., str]] = {
    "uploads/": upload_prefix,
    "results/": result_prefix,
    "shards/": shard_prefix,
    "exports/": export_prefix,
    "parts/": parts_prefix,
}
FIND_KEPT = {
    "uploads/": garbage.find_recordings,
    "results/": garbage.find_kept_results,
    "shards/": garbage.find_kept_shards,
    "exports/": garbage.find_kept_exports,
    "parts/": uploads.find_open,
}


@dataclass(frozen=True)
class Group:
    """Objects of one job, and of one of its attempts or exports."""

    job_id: UUID
    number: int | None
    oldest: datetime
    newest: datetime
    size: int


@dataclass
class Search:
    """A search of all of storage for orphans, and the ones that it had to keep."""

    old: datetime
    watches: list[tuple[datetime, datetime]]
    kept: int = 0
    kept_bytes: int = 0

    def may_remove(self, orphan: Group) -> bool:
        """Return True for an orphan that is old, and from a time of which the database knows all jobs."""
        if orphan.newest >= self.old:
            return False
        if all(watches.was_watched(moment, self.watches) for moment in (orphan.oldest, orphan.newest)):
            return True
        self.kept += 1
        self.kept_bytes += orphan.size
        return False


@dataclass
class Sweeper:
    """Removes everything that is due at each `tick`, unless another process holds the lock."""

    settings: Settings
    sessions: Sessions
    storage: ObjectStorage
    lock: DatabaseLock
    _steps: Steps = field(default_factory=Steps, init=False)
    _watcher: Watcher = field(default_factory=Watcher, init=False)
    _searched: float = field(default=float("-inf"), init=False)
    _search: Search = field(init=False)

    def tick(self) -> None:
        """Remove everything that is due; retry at the next tick if a dependency is unavailable."""
        self._steps.run(self._sweep)

    def _sweep(self) -> None:
        if not self.lock.hold():
            return
        with self.sessions.begin() as session:
            self._watcher.record(session)
        self.expire_jobs()
        self.expire_uploads()
        self.remove_garbage()
        if time.monotonic() - self._searched >= ORPHANS_SECONDS:
            self.remove_orphans()
            self._searched = time.monotonic()

    def expire_jobs(self) -> None:
        """Delete jobs that ended too long ago, and registry entries of workers that are long gone."""
        with self.sessions.begin() as session:
            expired = jobs.expire_jobs(session, ttl_days=self.settings.result_ttl_days)
        if expired:
            log.info("jobs_expired", count=len(expired))
        if self.settings.upload_ttl_days is not None:
            with self.sessions.begin() as session:
                given_up = garbage.expire_recordings(session, ttl_days=self.settings.upload_ttl_days)
            if given_up:
                log.info("recordings_expired", count=given_up)
        with self.sessions.begin() as session:
            worker_registry.forget_workers(session)

    def expire_uploads(self) -> None:
        """Delete uploads that were abandoned, with their parts, or whose time to be used has passed."""
        with self.sessions.begin() as session:
            expired = uploads.expire_uploads(session)
        for parts in expired:
            try:
                make_parts(self.storage).drop(parts)
            except ServiceError as error:  # `remove_orphans` tries again
                self._go_on_after(f"parts of {parts.key}", error)
        if expired:
            log.info("uploads_expired", count=len(expired))

    def remove_garbage(self) -> None:
        """Remove files of deleted jobs."""
        with self.sessions() as session:
            prefixes = garbage.list_garbage(session, older_than_seconds=2 * self.settings.lease_seconds)
        for prefix in prefixes:
            if not self.lock.hold():
                return
            is_removed = self._try_remove(prefix)
            with self.sessions.begin() as session:
                if is_removed:
                    garbage.forget(session, prefix)
                else:
                    garbage.postpone(session, prefix)

    def remove_orphans(self) -> None:
        """Search all of storage and remove old objects that belong to no job or to a stale attempt."""
        old = datetime.now(UTC) - timedelta(hours=self.settings.orphan_hours)
        with self.sessions() as session:
            self._search = Search(old, watches.list_watches(session))
        removed = 0
        try:
            with self.sessions() as session:
                keys = {parts.key for parts in uploads.list_open(session)}
            removed += self.storage.delete_unfinished(older_than=old, keep=keys)
        except ServiceError as error:
            self._go_on_after("unfinished uploads", error)
        for top in PREFIXES:
            try:
                removed += self._remove_orphans_below(top)
            except ServiceError as error:
                self._go_on_after(top, error)
        if removed:
            log.info("orphans_removed", count=removed)
        if self._search.kept:
            log.warning("unknown_files_kept", count=self._search.kept, bytes=self._search.kept_bytes)
        UNKNOWN_BYTES.set(self._search.kept_bytes)

    def _remove_orphans_below(self, top: str) -> int:
        removed, stored, prefix = 0, 0, PREFIXES[top]
        owned = self._groups(top)
        while batch := list(islice(owned, BATCH)):
            if not self.lock.hold():
                break
            with self.sessions() as session:
                kept = FIND_KEPT[top](session, [group.job_id for group in batch])
            for group in batch:
                job_id, attempt = group.job_id, group.number
                stored += group.size
                if job_id in kept and (attempt is None or attempt in kept[job_id]):
                    continue
                if self._search.may_remove(group):
                    removed += self._try_remove(prefix(job_id) if attempt is None else prefix(job_id, attempt))
        STORED_BYTES.labels(top.strip("/")).set(stored)
        return removed

    def _try_remove(self, prefix: str) -> bool:
        """Delete a prefix; return False if storage rejected it."""
        try:
            self.storage.delete_prefix(prefix)
        except ServiceError as error:
            self._go_on_after(prefix, error)
            return False
        return True

    def _go_on_after(self, subject: str, error: ServiceError) -> None:
        """Log a rejected request, so that the rest is still done; raise if storage as a whole is unavailable."""
        log.warning("storage_refused", subject=subject, error=str(error))
        self.storage.check()

    def _groups(self, top: str) -> Iterator[Group]:
        """Yield every group of objects that were written for the same job and number."""
        for owner, objects in groupby(self.storage.list_objects(top), _owner):
            entries = list(objects)
            if owner is not None:
                newest = max(entry.modified for entry in entries)
                oldest = min(entry.modified for entry in entries)
                yield Group(*owner, oldest, newest, sum(entry.size for entry in entries))


def _owner(entry: ListedObject) -> tuple[UUID, int | None] | None:
    """Return the job that an object was written for, and the attempt or export; None for a foreign key."""
    top, *parts = entry.key.split("/")
    try:
        job_id = UUID(parts[0])
    except (IndexError, ValueError):
        return None
    return job_id, int(parts[1]) if top != "uploads" and parts[1].isdecimal() else None

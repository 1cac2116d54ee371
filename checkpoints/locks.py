"""Keeps two downloads of one checkpoint from running at once.

A courtesy, not a safeguard: the store is right without any lock (a private `.part`, verified, then renamed), so
a lock that is lost, lies (`flock` on some network file systems) or cannot be had costs a second download, no more.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

import filelock

from checkpoints.files import replaced_atomically

if TYPE_CHECKING:
    from redis import Redis
    from redis.lock import Lock as RedisPyLock

_log = logging.getLogger(__name__)

_PUBLISH_SECONDS = 1.0  # how often the holder's progress goes to Redis


class Lock(Protocol):
    """A lock that one thread acquires and releases once."""

    def acquire(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; return True if the lock was acquired."""

    def release(self) -> None:
        """Release the lock."""

    def publish(self, note: str) -> None:
        """Leave the holder's progress for those that wait. Never fails, may be lost."""

    def latest(self) -> str:
        """Return the progress that the holder published last; "" without any."""


class LockFactory(Protocol):
    """Makes the lock of one checkpoint."""

    def __call__(self, key: str, path: Path) -> Lock:
        """Make it.

        Args:
            key: the checkpoint's name, the same on every machine.
            path: a file for locks between processes of one host; its folder exists.
        """


class HostLock:
    """A lock file: between the processes and threads of one host. Ends with its holder, however that ends."""

    def __init__(self, key: str, path: Path) -> None:
        self._lock = filelock.FileLock(path, thread_local=False)
        self._note = path.with_suffix(".json")

    def acquire(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the file."""
        try:
            self._lock.acquire(timeout=timeout)
        except filelock.Timeout:
            return False
        return True

    def release(self) -> None:
        """Release the lock. The file stays: removing it would let two processes in."""
        with suppress(OSError):
            self._note.unlink(missing_ok=True)
        self._lock.release()

    def publish(self, note: str) -> None:
        """Write a file beside the lock."""
        with suppress(OSError), replaced_atomically(self._note) as part:
            part.write_text(note)

    def latest(self) -> str:
        """Read that file."""
        try:
            return self._note.read_text()
        except (OSError, UnicodeDecodeError):
            return ""


@dataclass(frozen=True)
class ClusterLocks:
    """Makes locks that machines share by Redis, each above the lock file of its host.

    Attributes:
        client: its timeouts bound how long an unreachable Redis can hold a download up.
        ttl: seconds after which the lock of a holder that died is free.
        prefix: of the keys.
    """

    client: Redis
    ttl: float = 30.0
    prefix: str = "mt3:checkpoint-lock:"

    @classmethod
    def from_url(cls, url: str, ttl: float = 30.0) -> ClusterLocks:
        """Connect on first use, with timeouts: 2 s to connect, 5 s to answer, tried once more."""
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        retry = Retry(NoBackoff(), 1)
        return cls(Redis.from_url(url, socket_connect_timeout=2, socket_timeout=5, retry=retry), ttl)

    def __call__(self, key: str, path: Path) -> RedisLock:
        """Make the lock of one checkpoint."""
        return RedisLock(self.client, self.prefix + key, HostLock(key, path), self.ttl)


class RedisLock:
    """First the lock file, so that one process a host asks Redis; then Redis, renewed by a thread while held.

    A Redis that is unavailable is logged, and the lock file alone holds.
    """

    def __init__(self, client: Redis, name: str, host: HostLock, ttl: float) -> None:
        self._client = client
        self._name = name
        self._shared: RedisPyLock = client.lock(name, timeout=ttl, thread_local=False)
        self._host = host
        self._ttl = ttl
        self._note = ""
        self._released = Event()
        self._keeper: Thread | None = None

    def acquire(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for both."""
        from redis.exceptions import RedisError

        deadline = time.monotonic() + timeout
        if not self._host.acquire(timeout):
            return False
        try:
            held = self._shared.acquire(blocking_timeout=max(0.0, deadline - time.monotonic()))
        except RedisError as error:
            _log.warning("no cluster-wide checkpoint lock, going on with the lock file alone: %s", error)
            return True
        except BaseException:
            self._host.release()
            raise
        if not held:
            self._host.release()
            return False
        self._released.clear()
        self._keeper = Thread(target=self._keep, name="checkpoint-lock-keeper", daemon=True)
        self._keeper.start()
        return True

    def release(self) -> None:
        """Stop renewing, and release both."""
        from redis.exceptions import LockError, RedisError

        try:
            if self._keeper is not None:
                self._released.set()
                self._keeper.join()
                self._keeper = None
                self._shared.release()
        except LockError:
            _log.warning("the cluster-wide checkpoint lock %s ran out before its holder was done", self._name)
        except RedisError as error:
            _log.warning("the cluster-wide checkpoint lock %s ends by itself: %s", self._name, error)
        finally:
            self._host.release()

    def publish(self, note: str) -> None:
        """Leave it beside the lock file at once, and with Redis within a second: a slow Redis slows nobody."""
        self._note = note
        self._host.publish(note)

    def latest(self) -> str:
        """Ask this host, then Redis."""
        from redis.exceptions import RedisError

        if note := self._host.latest():
            return note
        try:
            return str((self._client.get(f"{self._name}:note") or b"").decode())  # type: ignore[union-attr]
        except RedisError:
            return ""

    def _keep(self) -> None:
        """Renew the lock and publish the holder's progress, until it is released or lost."""
        from redis.exceptions import LockError, RedisError

        renewed, published = time.monotonic(), ""
        while not self._released.wait(min(self._ttl / 3, _PUBLISH_SECONDS)):
            try:
                if self._note != published:
                    published = self._note
                    self._client.set(f"{self._name}:note", published, px=int(self._ttl * 1000))
                if time.monotonic() - renewed >= self._ttl / 3:
                    self._shared.extend(self._ttl, replace_ttl=True)
                    renewed = time.monotonic()
            except LockError:
                _log.warning("the cluster-wide checkpoint lock %s is lost; its holder goes on", self._name)
                return
            except RedisError as error:
                _log.warning("the cluster-wide checkpoint lock %s is not renewed: %s", self._name, error)

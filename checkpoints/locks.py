"""Keeps two downloads of one checkpoint from running at once.

A courtesy, not a safeguard: the store is right without any lock (a private `.part`, verified, then renamed), so
a lock that is lost, lies (`flock` on some network file systems) or cannot be had costs a second download, no more.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

import filelock

if TYPE_CHECKING:
    from redis import Redis
    from redis.lock import Lock as RedisPyLock

_log = logging.getLogger(__name__)


class Lock(Protocol):
    """Taken and given back once, by one thread."""

    def acquire(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; say whether the lock is ours."""

    def release(self) -> None:
        """Give it back."""


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

    def acquire(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the file."""
        try:
            self._lock.acquire(timeout=timeout)
        except filelock.Timeout:
            return False
        return True

    def release(self) -> None:
        """Give the file back. It stays where it is: removing it would let two in."""
        self._lock.release()


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
        shared = self.client.lock(self.prefix + key, timeout=self.ttl, thread_local=False)
        return RedisLock(shared, HostLock(key, path), self.ttl)


class RedisLock:
    """First the lock file, so that one process a host asks Redis; then Redis, renewed by a thread while held.

    Redis is asked for its favour only: away, it is logged and the lock file alone holds.
    """

    def __init__(self, shared: RedisPyLock, host: HostLock, ttl: float) -> None:
        self._shared = shared
        self._host = host
        self._ttl = ttl
        self._released = Event()
        self._renewer: Thread | None = None

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
        self._renewer = Thread(target=self._renew, name="checkpoint-lock-renewer", daemon=True)
        self._renewer.start()
        return True

    def release(self) -> None:
        """Stop renewing, give both back."""
        from redis.exceptions import LockError, RedisError

        try:
            if self._renewer is not None:
                self._released.set()
                self._renewer.join()
                self._renewer = None
                self._shared.release()
        except LockError:
            _log.warning("the cluster-wide checkpoint lock %s ran out before its holder was done", self._name)
        except RedisError as error:
            _log.warning("the cluster-wide checkpoint lock %s ends by itself: %s", self._name, error)
        finally:
            self._host.release()

    @property
    def _name(self) -> str:
        return str(self._shared.name)

    def _renew(self) -> None:
        from redis.exceptions import LockError, RedisError

        while not self._released.wait(self._ttl / 3):
            try:
                self._shared.extend(self._ttl, replace_ttl=True)
            except LockError:
                _log.warning("the cluster-wide checkpoint lock %s is lost; its holder goes on", self._name)
                return
            except RedisError as error:
                _log.warning("the cluster-wide checkpoint lock %s is not renewed: %s", self._name, error)

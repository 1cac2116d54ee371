"""Looks up keys, log-ins and share links, and remembers them for seconds, so that polls need no query for it.

A key or link that is revoked therefore stays valid for that long, in processes that have seen it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar
from uuid import UUID

from shared import keys, shares
from shared.db import Sessions, reading
from shared.keys import Identity
from shared.logs import get_logger
from shared.shares import SharedJob

log = get_logger(__name__)

CACHE_SECONDS = 5.0
CACHE_ENTRIES = 4096  # the least recently stored are dropped: strangers may send any number of wrong keys

Found = TypeVar("Found")


class Credentials:
    """The keys and log-ins in the database."""

    def __init__(self, sessions: Sessions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._identities: SecretCache[Identity] = SecretCache(clock)
        self._shares: SecretCache[SharedJob] = SecretCache(clock)
        self._recorder = ThreadPoolExecutor(1, "keys")  # a request must not wait for a write

    def identify(self, secret: str) -> Identity | None:
        """Return what a key or the cookie of a log-in stands for; None if it is not valid."""
        return self._identities.get(secret, self._find)

    def find_shared_job(self, token: str) -> SharedJob | None:
        """Return the job that a share link shows; None if the link is not valid."""
        return self._shares.get(token, self._find_share)

    def forget(self, secret: str) -> None:
        """Look up a secret again when it is used next."""
        self._identities.forget(secret)
        self._shares.forget(secret)

    def close(self) -> None:
        """Wait until every use of a key is recorded."""
        self._recorder.shutdown()

    def _find(self, secret: str) -> Identity | None:
        with reading(self._sessions) as session:
            identity = keys.find_identity(session, secret)
        if identity is not None and not identity.is_use_recorded:
            self._recorder.submit(self._record, identity.key_id)
        return identity

    def _find_share(self, token: str) -> SharedJob | None:
        with reading(self._sessions) as session:
            return shares.find_shared_job(session, token)

    def _record(self, key_id: UUID) -> None:
        try:
            with self._sessions.begin() as session:
                keys.record_use(session, key_id)
        except Exception as error:
            log.warning("key_use_not_recorded", key_id=str(key_id), error=str(error).splitlines()[:1])


class SecretCache(Generic[Found]):
    """Hold what was found for a secret, by its hash, for `CACHE_SECONDS`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, Found | None]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, secret: str, find: Callable[[str], Found | None]) -> Found | None:
        """Return what `find` returns for the secret, or returned a few seconds ago."""
        digest, now = keys.hash_secret(secret), self._clock()
        with self._lock:
            read_at, found = self._entries.get(digest, (float("-inf"), None))
        if now - read_at <= CACHE_SECONDS:
            return found
        found = find(secret)
        with self._lock:
            self._entries.pop(digest, None)
            self._entries[digest] = (now, found)
            while len(self._entries) > CACHE_ENTRIES:
                self._entries.popitem(last=False)
        return found

    def forget(self, secret: str) -> None:
        """Drop what was found for a secret."""
        with self._lock:
            self._entries.pop(keys.hash_secret(secret), None)

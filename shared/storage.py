"""Object storage for recordings and results: a folder or an S3 bucket, behind one protocol.

The service alone makes the keys: `uploads/{job or upload}/audio`, `results/{job}/{attempt}/{name}`, of a long
recording also `shards/{job}/{attempt}/{shard}/…`, and `exports/{job}/{number}/{attempt}/{name}`. No name that a
client has chosen is used as a path or key. An object is either complete under its key or absent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

from shared.config import Settings
from shared.errors import ObjectMissing, StorageUnavailable


def upload_prefix(job_id: UUID) -> str:
    """Return the prefix of a job's recording."""
    return f"uploads/{job_id}/"


def result_prefix(job_id: UUID, *attempts: int) -> str:
    """Return the prefix of a job's results: a folder for each attempt, so that a late one overwrites nothing.

    Args:
        attempts: the attempt at the job's first item and, for a long recording, the attempt at its assembly.
    """
    return "/".join(["results", str(job_id), *map(str, attempts), ""])


def shard_prefix(job_id: UUID, *parts: int) -> str:
    """Return the prefix of a job's shards; `parts`: attempt at the split, shard number, attempt at the shard."""
    return "/".join(["shards", str(job_id), *map(str, parts), ""])


def export_prefix(job_id: UUID, *parts: int) -> str:
    """Return the prefix of a job's exports; `parts`: number of the work item, attempt at it."""
    return "/".join(["exports", str(job_id), *map(str, parts), ""])


def corrections_prefix(job_id: UUID, version: UUID) -> str:
    """Return the prefix of one version of a job's corrected notes."""
    return f"{export_prefix(job_id)}corrections/{version}/"


@dataclass(frozen=True)
class StoredObject:
    """A written object, with its size in bytes and its sha256 in hex."""

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ListedObject:
    """An existing object; `modified` is by the clock of the storage."""

    key: str
    size: int
    modified: datetime


class ObjectStorage(Protocol):
    """Methods raise `StorageUnavailable` if storage does not answer, `ObjectMissing` if the key does not exist."""

    def put(self, key: str, source: BinaryIO, *, content_type: str) -> StoredObject:
        """Store the rest of a stream, completely or not at all, and verify the stored size."""

    def open(self, key: str) -> BinaryIO:
        """Open an object as a seekable stream; the caller closes it."""

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in pieces, without a copy on disk."""

    def size(self, key: str) -> int:
        """Return the size of an object in bytes."""

    def delete_prefix(self, prefix: str) -> None:
        """Remove all objects under a prefix; it is no error if there are none."""

    def list_objects(self, prefix: str) -> Iterator[ListedObject]:
        """Yield all objects under a prefix, in the order of their keys."""

    def delete_unfinished(self, *, older_than: datetime, keep: Collection[str] = ()) -> int:
        """Remove the remains of writes that began before a time and never finished; return how many.

        Args:
            keep: keys of objects that clients still send in parts.
        """

    def link(self, key: str, *, disposition: str, content_type: str, seconds: int) -> str | None:
        """Return a short-lived URL of the object; None if the service itself must send the bytes.

        Args:
            disposition: the Content-Disposition of the response, see `content_disposition`.
        """

    def check(self) -> None:
        """Raise if storage is not usable."""


def make_storage(settings: Settings) -> ObjectStorage:
    """Return the storage that `MT3_STORAGE_URL` names."""
    parts = urlsplit(settings.storage_url)
    if parts.scheme == "file":
        return LocalStorage(Path(unquote(parts.path)))
    from shared.s3_storage import S3Storage

    return S3Storage(settings, bucket=parts.netloc, prefix=parts.path.strip("/"))


def put_checked(storage: ObjectStorage, key: str, content: BinaryIO, *, content_type: str) -> StoredObject:
    """Store an object that other steps rely on, and verify its hash by reading it back.

    Raises:
        StorageUnavailable: the object is missing or differs from what was sent.
    """
    stored = storage.put(key, content, content_type=content_type)
    try:
        with storage.open(key) as kept:
            hashing = HashingReader(kept)
            while hashing.read(PIECE_BYTES):
                pass
            is_intact = hashing.sha256 == stored.sha256
    except ObjectMissing:
        is_intact = False
    if not is_intact:
        raise StorageUnavailable(f"Storage did not keep {key} as it was sent.")
    return stored


def content_disposition(filename: str, *, as_attachment: bool) -> str:
    """Return the header value that names a download, also for clients that only know the plain form (RFC 6266)."""
    kind = "attachment" if as_attachment else "inline"
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = "".join(c if c.isprintable() and c not in '"\\%' else "_" for c in plain).strip() or "download"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


class HashingReader:
    """A read-only stream that counts and hashes the bytes read through it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._sha256 = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; all of the rest without a size."""
        data = self._source.read(size)
        self._sha256.update(data)
        self.size += len(data)
        return data

    @property
    def sha256(self) -> str:
        """Return the hash of what has been read, in hex."""
        return self._sha256.hexdigest()


PART = ".part-"
PIECE_BYTES = 1024 * 1024


class LocalStorage:
    """Storage in a folder. Writes go to a temporary file beside the target, which is synced and renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, key: str, source: BinaryIO, *, content_type: str) -> StoredObject:
        """See `ObjectStorage`."""
        path = self._path(key)
        hashing = HashingReader(source)
        with _local_errors(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PART, delete=False) as part:
                try:
                    shutil.copyfileobj(hashing, part, PIECE_BYTES)
                    part.flush()
                    os.fsync(part.fileno())
                    Path(part.name).replace(path)
                except BaseException:
                    Path(part.name).unlink(missing_ok=True)
                    with suppress(OSError):
                        path.parent.rmdir()  # unless it holds other files
                    raise
        return StoredObject(key, hashing.size, hashing.sha256)

    def open(self, key: str) -> BinaryIO:
        """See `ObjectStorage`."""
        with _local_errors(key):
            return self._path(key).open("rb")

    def stream(self, key: str) -> Iterator[bytes]:
        """See `ObjectStorage`."""
        with _local_errors(key), self._path(key).open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def size(self, key: str) -> int:
        """See `ObjectStorage`."""
        with _local_errors(key):
            return self._path(key).stat().st_size

    def delete_prefix(self, prefix: str) -> None:
        """See `ObjectStorage`. Prefixes end in a slash, so each one is a folder."""
        with _local_errors(prefix):
            if self._path(prefix).exists():
                shutil.rmtree(self._path(prefix))

    def list_objects(self, prefix: str) -> Iterator[ListedObject]:
        """See `ObjectStorage`."""
        for path, key in self._files(prefix):
            if not path.name.startswith(PART):
                with suppress(ObjectMissing), _local_errors(key):
                    stat = path.stat()
                    yield ListedObject(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def delete_unfinished(self, *, older_than: datetime, keep: Collection[str] = ()) -> int:
        """See `ObjectStorage`: removes temporary files that have not been written to since."""
        removed = 0
        for path, key in self._files(""):
            if path.name.startswith(PART):
                with suppress(ObjectMissing), _local_errors(key):
                    if path.stat().st_mtime < older_than.timestamp():
                        path.unlink()
                        removed += 1
        return removed

    def _files(self, prefix: str) -> Iterator[tuple[Path, str]]:
        """Yield every file under a prefix that ends in a slash, with its key."""
        with _local_errors(prefix):
            for folder, folders, names in os.walk(self._path(prefix)):
                folders.sort()
                for name in sorted(names):
                    path = Path(folder, name)
                    yield path, path.relative_to(self.root).as_posix()

    def link(self, key: str, *, disposition: str, content_type: str, seconds: int) -> str | None:
        """Return None: the web process sends the bytes itself."""
        return None

    def check(self) -> None:
        """See `ObjectStorage`."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageUnavailable(
                f"The storage folder {self.root} cannot be made: {error.strerror}."
            ) from error
        if not os.access(self.root, os.W_OK):
            raise StorageUnavailable(f"The storage folder {self.root} is not writable.")

    def _path(self, key: str) -> Path:
        path = self.root / key
        if ".." in path.parts or "\0" in key:
            raise ValueError(f"invalid storage key: {key!r}")
        return path


@contextmanager
def _local_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ObjectMissing(f"There is no object {key}.") from None
    except OSError as error:
        raise StorageUnavailable(f"Storage failed: {error.strerror or error}.") from error

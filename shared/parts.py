"""Files that arrive in parts: straight in the bucket where storage is S3, else through the service.

A part is there completely or not at all, and may be sent again. `PartStorage.join` makes one object of all parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, cast
from uuid import UUID

from shared.errors import ObjectMissing
from shared.s3_storage import S3Storage
from shared.storage import ObjectStorage, upload_prefix


def parts_prefix(upload_id: UUID) -> str:
    """Return the prefix of an upload's parts, where they are objects of their own."""
    return f"parts/{upload_id}/"


@dataclass(frozen=True)
class Parts:
    """The parts of one file.

    Attributes:
        token: the storage's name for them; None if they are objects of their own.
    """

    upload_id: UUID
    size: int
    part_size: int
    token: str | None

    @property
    def key(self) -> str:
        """Return the key of the whole file."""
        return upload_prefix(self.upload_id) + "audio"

    @property
    def count(self) -> int:
        """Return the number of parts; the first has number 1."""
        return -(-self.size // self.part_size)

    def offset(self, number: int) -> int:
        """Return where a part begins in the file, in bytes."""
        return (number - 1) * self.part_size

    def length(self, number: int) -> int:
        """Return the size of a part in bytes."""
        return min(self.part_size, self.size - self.offset(number))

    def missing(self, received: Mapping[int, int]) -> list[int]:
        """Return the numbers of the parts that are not there with the right size."""
        return [n for n in range(1, self.count + 1) if received.get(n) != self.length(n)]


class PartStorage(Protocol):
    """Methods raise `StorageUnavailable` if storage does not answer."""

    def begin(self, upload_id: UUID, content_type: str) -> str | None:
        """Prepare for parts; return the storage's token for them."""

    def put(self, parts: Parts, number: int, source: BinaryIO) -> None:
        """Store a part that the service has received."""

    def links(self, parts: Parts, numbers: Iterable[int], seconds: int) -> dict[int, str] | None:
        """Return URLs to send parts to with PUT; None if parts are sent to the service."""

    def received(self, parts: Parts) -> dict[int, int]:
        """Return the numbers and sizes of the parts that are there.

        Raises:
            ObjectMissing: the storage has dropped the parts, or joined them.
        """

    def join(self, parts: Parts, alive: Callable[[], None]) -> str | None:
        """Make one object of all parts; return its sha256 if that costs nothing.

        Args:
            alive: called now and then; what it raises ends the work.
        """

    def drop(self, parts: Parts) -> None:
        """Remove the parts; it is no error if there are none."""


def make_parts(storage: ObjectStorage) -> PartStorage:
    """Return how files arrive in parts in this storage."""
    return S3Parts(storage) if isinstance(storage, S3Storage) else StoredParts(storage)


def hash_object(storage: ObjectStorage, key: str, alive: Callable[[], None]) -> str:
    """Return the sha256 of an object in hex, with little memory and no copy on disk; see `PartStorage.join`."""
    digest = hashlib.sha256()
    for piece in storage.stream(key):
        digest.update(piece)
        alive()
    return digest.hexdigest()


class StoredParts:
    """Parts that are objects of their own until they are joined; works with any storage."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage

    def begin(self, upload_id: UUID, content_type: str) -> str | None:
        """See `PartStorage`."""
        return None

    def put(self, parts: Parts, number: int, source: BinaryIO) -> None:
        """See `PartStorage`."""
        self._storage.put(_part_key(parts, number), source, content_type="application/octet-stream")

    def links(self, parts: Parts, numbers: Iterable[int], seconds: int) -> dict[int, str] | None:
        """Return None: parts are sent to the service."""
        return None

    def received(self, parts: Parts) -> dict[int, int]:
        """See `PartStorage`."""
        entries = self._storage.list_objects(parts_prefix(parts.upload_id))
        return {int(entry.key.rpartition("/p")[2]): entry.size for entry in entries}

    def join(self, parts: Parts, alive: Callable[[], None]) -> str | None:
        """See `PartStorage`."""
        source = _Joined(self._pieces(parts, alive))
        stored = self._storage.put(parts.key, cast(BinaryIO, source), content_type="application/octet-stream")
        return stored.sha256

    def drop(self, parts: Parts) -> None:
        """See `PartStorage`."""
        self._storage.delete_prefix(parts_prefix(parts.upload_id))

    def _pieces(self, parts: Parts, alive: Callable[[], None]) -> Iterator[bytes]:
        for number in range(1, parts.count + 1):
            for piece in self._storage.stream(_part_key(parts, number)):
                yield piece
                alive()


class S3Parts:
    """Parts of a multipart upload of S3, which clients send straight to the bucket."""

    def __init__(self, storage: S3Storage) -> None:
        self._storage = storage

    def begin(self, upload_id: UUID, content_type: str) -> str | None:
        """See `PartStorage`."""
        key = upload_prefix(upload_id) + "audio"
        with self._storage.errors(key):
            at = self._storage.at(key)
            answer = self._storage.client.create_multipart_upload(**at, ContentType=content_type)
        return str(answer["UploadId"])

    def put(self, parts: Parts, number: int, source: BinaryIO) -> None:
        """See `PartStorage`."""
        with self._storage.errors(parts.key):
            self._storage.client.upload_part(**self._at(parts), PartNumber=number, Body=source)

    def links(self, parts: Parts, numbers: Iterable[int], seconds: int) -> dict[int, str] | None:
        """Return presigned URLs; each accepts a part of exactly its size."""
        sign = self._storage.link_client.generate_presigned_url
        return {
            number: sign(
                "upload_part",
                Params={**self._at(parts), "PartNumber": number, "ContentLength": parts.length(number)},
                ExpiresIn=seconds,
            )
            for number in numbers
        }

    def received(self, parts: Parts) -> dict[int, int]:
        """See `PartStorage`."""
        return {number: size for number, (size, _) in self._list(parts).items()}

    def join(self, parts: Parts, alive: Callable[[], None]) -> str | None:
        """See `PartStorage`. The server joins them without sending them anywhere."""
        listed = self._list(parts)
        tags = [{"PartNumber": number, "ETag": tag} for number, (_, tag) in sorted(listed.items())]
        with self._storage.errors(parts.key):
            self._storage.client.complete_multipart_upload(**self._at(parts), MultipartUpload={"Parts": tags})
        return None

    def drop(self, parts: Parts) -> None:
        """See `PartStorage`."""
        with suppress(ObjectMissing), self._errors(parts):
            self._storage.client.abort_multipart_upload(**self._at(parts))

    def _list(self, parts: Parts) -> dict[int, tuple[int, str]]:
        found: dict[int, tuple[int, str]] = {}
        with self._errors(parts):
            pages = self._storage.client.get_paginator("list_parts")
            for page in pages.paginate(**self._at(parts)):
                for part in page.get("Parts", []):
                    found[int(part["PartNumber"])] = int(part["Size"]), part["ETag"]
        return found

    def _at(self, parts: Parts) -> dict[str, Any]:
        return {**self._storage.at(parts.key), "UploadId": parts.token}

    def _errors(self, parts: Parts) -> AbstractContextManager[None]:
        return self._storage.errors(parts.key)


class _Joined:
    """A read-only stream of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._held = piece
        taken, self._held = (self._held[:size], self._held[size:]) if size >= 0 else (self._held, b"")
        return taken


def _part_key(parts: Parts, number: int) -> str:
    return f"{parts_prefix(parts.upload_id)}p{number:05d}"

"""Fetches a T5X checkpoint, a folder of a public Google Cloud Storage bucket, as one tar archive.

The bucket's JSON listing gives names, sizes and MD5 sums; the objects come over HTTPS. The archive is the same to
the byte each time: members in order of name, no dates, no owners. It is continued after its last whole member.
"""

from __future__ import annotations

import base64
import hashlib
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlencode

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.http import PATIENT, Address, Patience, parse_json, read


@dataclass(frozen=True)
class _Object:
    """One object of the bucket; `name` within the checkpoint's folder."""

    name: str
    size: int
    md5: bytes


@dataclass(frozen=True)
class T5xSource:
    """A folder of a bucket.

    Attributes:
        prefix: the folder, without a slash at its end.
    """

    bucket: str
    prefix: str
    endpoint: str = "https://storage.googleapis.com"
    patience: Patience = PATIENT

    @property
    def label(self) -> str:
        """The bucket and the folder."""
        return f"the bucket gs://{self.bucket}/{self.prefix}"

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> str | None:
        """Download each object that `part` does not hold yet."""

        def alive() -> None:
            progress(part.stat().st_size)

        objects = self._list(alive)
        if not objects:
            raise SourceError("the folder is empty")
        with part.open("r+b") as out:
            held = _keep_whole_members(out, objects)
            for item in objects[held:]:
                progress(out.tell())
                _append(out, item, self._read(item, alive))
            out.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of the archive
            progress(out.tell())
        return None

    def _list(self, alive: Callable[[], None]) -> list[_Object]:
        objects, page = [], ""
        while True:
            query = {"prefix": f"{self.prefix}/", "fields": "items(name,size,md5Hash),nextPageToken"}
            query |= {"pageToken": page} if page else {}
            url = f"{self.endpoint}/storage/v1/b/{quote(self.bucket)}/o?{urlencode(query)}"
            try:
                listing = parse_json(read(Address(url), self.patience, alive=alive))
                objects += [
                    _Object(
                        item["name"].removeprefix(f"{self.prefix}/"),
                        int(item["size"]),
                        base64.b64decode(item["md5Hash"]),
                    )
                    for item in listing.get("items", [])
                ]
                page = listing.get("nextPageToken")
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise SourceError("the bucket's listing cannot be understood") from error
            if not page:
                return sorted((item for item in objects if item.name), key=lambda item: item.name)

    def _read(self, item: _Object, alive: Callable[[], None]) -> bytes:
        url = f"{self.endpoint}/{quote(self.bucket)}/{quote(f'{self.prefix}/{item.name}')}"
        content = read(Address(url), self.patience, limit=item.size, alive=alive)
        if not _is(item, content):
            raise SourceError(f"{item.name} is damaged on the way (its MD5 is not the listed one)")
        return content


def _is(item: _Object, content: bytes) -> bool:
    return hashlib.md5(content, usedforsecurity=False).digest() == item.md5


def _append(out: BinaryIO, item: _Object, content: bytes) -> None:
    header = tarfile.TarInfo(item.name)
    header.size = len(content)
    out.write(header.tobuf(tarfile.USTAR_FORMAT))
    out.write(content)
    out.write(bytes(-len(content) % tarfile.BLOCKSIZE))


def _keep_whole_members(out: BinaryIO, objects: list[_Object]) -> int:
    """Cut the archive after the last member that is whole and what the bucket holds; return how many those are."""
    kept, end = 0, 0
    try:
        with tarfile.open(fileobj=out, mode="r:") as archive:
            for item, member in zip(objects, archive, strict=False):
                stream = archive.extractfile(member)
                if member.name != item.name or stream is None or not _is(item, stream.read()):
                    break
                kept += 1
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    except (tarfile.TarError, EOFError):
        pass  # cut off within a member
    out.seek(end)
    out.truncate()
    return kept

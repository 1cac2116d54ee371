"""Read stretches of a file by position, some bytes of them replaced."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field


class File:
    """Positioned reads of a regular file, whatever its descriptor's offset is.

    Attributes:
        size: bytes.
        failure: the first error that reading raised; it is not the recording's fault.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.failure: OSError | None = None

    def at(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset` on."""
        try:
            return os.pread(self._descriptor, max(0, min(length, self.size - offset)), offset)
        except OSError as error:
            self.failure = self.failure or error
            raise


@dataclass(frozen=True)
class Part:
    """A stretch of a file that is a recording of its own.

    Attributes:
        start, end: bytes of the file.
        prefix: bytes that take the place of what stands before `start`, as a header with true sizes.
        patches: bytes that take the place of the file's own, by their offset in the file.
        missing_seconds: sound that the header states and the file does not hold, if the bytes determine that.
        is_cut: whether the bytes show that the end is missing.
        stated_seconds: length that the header states, where FFmpeg takes it from what is there.
        warnings: sentences about what was read otherwise than the header states, with their codes.
    """

    start: int
    end: int
    prefix: bytes = b""
    patches: dict[int, bytes] = field(default_factory=dict)
    missing_seconds: float = 0.0
    is_cut: bool = False
    stated_seconds: float | None = None
    warnings: tuple[tuple[str, str], ...] = ()


class View(io.RawIOBase):
    """A part as a read-only file."""

    def __init__(self, file: File, part: Part) -> None:
        self._file = file
        self._part = part
        self._size = len(part.prefix) + part.end - part.start
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; one before the beginning is the beginning."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to so many bytes, the rest if negative."""
        left = max(0, self._size - self._position)
        size = left if size < 0 else min(size, left)
        prefix = self._part.prefix[self._position : self._position + size]
        offset = self._part.start + self._position + len(prefix) - len(self._part.prefix)
        data = prefix + self._patched(offset, size - len(prefix))
        self._position += len(data)
        return data

    def _patched(self, offset: int, length: int) -> bytes:
        data = self._file.at(offset, length)
        for at, patch in self._part.patches.items():
            if offset - len(patch) < at < offset + len(data):
                changed = bytearray(data)
                for index, byte in enumerate(patch, start=at - offset):
                    if 0 <= index < len(data):
                        changed[index] = byte
                data = bytes(changed)
        return data

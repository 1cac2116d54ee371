"""Downloads that resume where they stopped: `Range`, `If-Range` and the part file.

A part is resumed from its bytes and a note that names the resource they came from with that resource's strong
ETag. Any answer other than 206 with the matching `Content-Range` starts the download over, so bytes of two
versions are never joined. A part that came from elsewhere, or without a strong ETag, is resumed only if the
catalog knows the sum, which then shows whether the two ends fit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import TracebackType

from urllib3.exceptions import HTTPError

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile, read_json, resume_note, write_json
from checkpoints.http import (
    Address,
    BrokenOffError,
    Patience,
    RefusedError,
    Response,
    RestartError,
    Retries,
    after_break,
    open_address,
    stated_length,
)

_BLOCK_BYTES = 1 << 20
_ENOUGH_BYTES = 1 << 16  # a connection that brought this many earns the next ones the full number of tries
_SMALL_BYTES = 1 << 16  # a body of the wrong size is inspected before it is refused if it is no longer than this
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
# "aws-chunked" describes an upload; some S3 servers repeat it on the way down, where nothing is coded.
_UNCODED = {"", "identity", "aws-chunked"}


def download(
    locate: Callable[[], Address],
    resource: str,
    file: CheckpointFile,
    part: Path,
    progress: Callable[[int], None],
    patience: Patience,
) -> str:
    """Fill `part`, starting where it ends; return the sha256 of all that it then holds.

    Args:
        locate: called before each connection, so that signed links can be fresh.
        resource: names what is downloaded; the same each time, however its links are signed.
        file: its size, if it is certain, is where the download ends; with a sum, any source's bytes are resumed.
    Raises:
        SourceError: the download failed; the part keeps what was received.
    """
    with _Part(part, resource) as out:
        retries = Retries.start(patience, lambda: progress(out.size))
        while out.size != file.exact_size:
            before = out.size
            try:
                _connect(locate(), file, out, progress, patience)
                break
            except HTTPError as error:
                if out.size - before >= _ENOUGH_BYTES:
                    retries = Retries.start(patience, lambda: progress(out.size))
                retries = after_break(retries, error, patience)
        return out.sha256()


class _Part:
    """The part being written, and what is needed to resume it another time.

    The sum is taken as the bytes are written, since nobody else writes to a part; by a thread, so that hashing one
    block takes no longer than waiting for the next.
    """

    def __init__(self, path: Path, resource: str) -> None:
        self._path = path
        self._resource = resource
        self._note = resume_note(path)
        self._etag: str | None = None
        self._hash = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-hasher")
        self._hashed: Future[None] | None = None
        self.size = 0

    def __enter__(self) -> _Part:
        self._stream = self._path.open("r+b", buffering=0)
        while block := self._stream.read(_BLOCK_BYTES):
            self._add(block)
        if self.size:
            note = read_json(self._note)
            self._etag = note.get("etag") if note.get("resource") == self._resource else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hasher.shutdown()
        self._stream.close()

    @property
    def etag(self) -> str | None:
        """The strong ETag of the resource that these bytes are of, if it had one."""
        return self._etag

    def restart(self) -> None:
        """Forget all that came."""
        self._finish_hashing()
        self._stream.seek(0)
        self._stream.truncate()
        self._hash = hashlib.sha256()
        self.size = 0
        self._etag = None

    def remember(self, etag: str | None) -> None:
        """Note what the bytes to come are of; a weak ETag does not vouch for bytes."""
        self._etag = etag if etag and not etag.startswith("W/") else None
        write_json(self._note, {"resource": self._resource, "etag": self._etag})

    def write(self, block: bytes) -> None:
        """Append."""
        view = memoryview(block)
        while view:
            view = view[self._stream.write(view) :]
        self._add(block)

    def sha256(self) -> str:
        """Return the sum of all bytes."""
        self._finish_hashing()
        return self._hash.hexdigest()

    def _add(self, block: bytes) -> None:
        self._finish_hashing()
        self._hashed = self._hasher.submit(self._hash.update, block)
        self.size += len(block)

    def _finish_hashing(self) -> None:
        if self._hashed is not None:
            self._hashed.result()
            self._hashed = None


def _connect(
    address: Address, file: CheckpointFile, out: _Part, progress: Callable[[int], None], patience: Patience
) -> None:
    """Ask for what is missing and write it."""
    if (out.size and not (out.etag or file.sha256)) or (file.exact_size and out.size > file.exact_size):
        out.restart()
    ranged = out.size > 0
    headers = dict(address.headers)
    if ranged:
        headers["Range"] = f"bytes={out.size}-"
        if out.etag:
            headers["If-Range"] = out.etag
    try:
        response = open_address(Address(address.url, headers), patience, alive=lambda: progress(out.size))
    except RefusedError as error:
        if ranged and error.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            out.restart()
            raise RestartError("it cannot continue the download") from error
        raise
    with response:
        coding = response.headers.get("Content-Encoding", "").strip().lower()
        if coding not in _UNCODED:
            raise SourceError(f"it sends the file {coding}-coded, which was not asked for")
        # Some S3 servers send the requested range with its `Content-Range`, but with the status 200.
        if response.status == HTTPStatus.PARTIAL_CONTENT or "Content-Range" in response.headers:
            if not ranged:
                raise SourceError("it sends a part of the file without having been asked to")
            total = _resumed_total(response, out, file)
            if total is None:
                out.restart()
                raise RestartError("it sends another part of the file than was asked for")
        else:
            if out.size:
                out.restart()
            total = stated_length(response)
        out.remember(response.headers.get("ETag"))
        _copy(response, total, file, out, progress)


def _resumed_total(response: Response, out: _Part, file: CheckpointFile) -> int | None:
    """Return the size of the whole file if a part of it begins where ours ends and is of the right file."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != out.size or file.exact_size not in (None, int(match[2])):
        return None
    # Only a 206 shows that the server evaluated If-Range.
    vouched = response.status == HTTPStatus.PARTIAL_CONTENT or response.headers.get("ETag") == out.etag
    return int(match[2]) if vouched or file.sha256 else None


def _copy(
    response: Response, total: int | None, file: CheckpointFile, out: _Part, progress: Callable[[int], None]
) -> None:
    wanted = file.exact_size
    if wanted and total and total != wanted and total > _SMALL_BYTES:
        raise SourceError(f"it has {total:,} bytes, not {wanted:,}")
    progress(out.size)
    while total is None or out.size < total:
        block = response.read1(_BLOCK_BYTES, decode_content=False)
        if not block:
            break
        out.write(block)
        progress(out.size)
        if wanted and out.size > wanted:
            return  # enough to know that it is wrong
    if total is not None and out.size < total:
        raise BrokenOffError(f"the connection broke off after {out.size:,} of {total:,} bytes")

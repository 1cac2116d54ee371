"""Sends stored files: as a redirect to a short-lived link, whole or in ranges; and compresses text."""

from __future__ import annotations

import gzip
import io
import mimetypes
import zlib
from collections.abc import Iterable, Iterator

from flask import Request, Response, redirect, request, send_file
from werkzeug.exceptions import HTTPException, PreconditionFailed

from shared.storage import content_disposition
from web.services import services

COMPRESSED_TYPES = ("application/json", "application/problem+json", "image/svg+xml", "text/")
LEAST_BYTES = 2048  # shorter bodies are not compressed: polls stay cheap
LEVEL = 5


def send_object(
    key: str, *, content_type: str, filename: str, etag: str, as_attachment: bool, may_redirect: bool
) -> Response:
    """Return a response with a stored file, or a redirect to it where the storage serves links.

    Raises:
        ObjectMissing, StorageUnavailable
    """
    storage = services().storage
    disposition = content_disposition(filename, as_attachment=as_attachment)
    if may_redirect:
        seconds = services().settings.link_seconds
        link = storage.link(key, disposition=disposition, content_type=content_type, seconds=seconds)
        if link is not None:
            answer = redirect(link, 303)
            answer.headers["Cache-Control"] = "no-store"
            return answer  # type: ignore[return-value]
    stream = storage.open(key)
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    response = send_file(stream, mimetype=content_type, conditional=False, etag=etag)
    response.call_on_close(stream.close)  # also if the body is not sent, for 304
    response.content_length = size
    response.headers["Content-Disposition"] = disposition
    try:
        return make_conditional(response, length=size)
    except HTTPException:  # 412 or 416
        stream.close()
        raise


def make_conditional(response: Response, *, length: int | None = None) -> Response:
    """Apply the conditions and, given the length of a file, the `Range` of the current request (RFC 9110).

    Raises:
        PreconditionFailed, RequestedRangeNotSatisfiable
    """
    etag, _ = response.get_etag()
    if request.if_match and not (etag and request.if_match.contains_weak(etag)):
        raise PreconditionFailed
    environ = dict(request.environ)
    if length is None or _is_range_ignored(response):
        environ.pop("HTTP_RANGE", None)
    return response.make_conditional(environ, accept_ranges=length is not None, complete_length=length)  # type: ignore[return-value]


def _is_range_ignored(response: Response) -> bool:
    """Return True if the whole file, or 304, answers a request that has a `Range`."""
    etag, _ = response.get_etag()
    if_range = request.headers.get("If-Range", "")
    ranges = request.headers.get("Range", "").strip().lower()
    return (
        request.method != "GET"
        or not ranges.startswith("bytes")
        or "," in ranges  # several would take a multipart body
        or if_range.startswith("W/")  # a compressed answer has other bytes than the file
        or bool(etag and request.if_none_match.contains_weak(etag))
    )


def sound_type(filename: str | None) -> str:
    """Return the media type of a recording by its name; never one that a browser would run as a page."""
    guessed, _ = mimetypes.guess_type(filename or "")
    return guessed if guessed and guessed.startswith(("audio/", "video/")) else "application/octet-stream"


def compress(response: Response, asked: Request) -> Response:
    """Compress a response if the client accepts gzip and its body is long text."""
    if (
        response.status_code != 200
        or (response.content_length or LEAST_BYTES) < LEAST_BYTES
        or not response.content_type.startswith(COMPRESSED_TYPES)
        or response.headers.get("Content-Encoding")
    ):
        return response
    response.vary.add("Accept-Encoding")
    if asked.accept_encodings["gzip"] <= 0:
        return response
    if response.is_streamed or response.direct_passthrough:
        response.direct_passthrough = False
        response.response = _compressed(response.response)  # type: ignore[arg-type]
        response.headers.pop("Content-Length", None)
    elif len(response.data) < LEAST_BYTES:
        return response
    else:
        response.data = gzip.compress(response.data, LEVEL)
    response.headers["Content-Encoding"] = "gzip"
    response.headers.pop("Accept-Ranges", None)
    etag, _ = response.get_etag()
    if etag:
        response.set_etag(etag, weak=True)  # the bytes differ from those of the file
    return response


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(LEVEL, wbits=zlib.MAX_WBITS | 16)
    try:
        for piece in pieces:
            yield packer.compress(piece)
        yield packer.flush()
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()

"""Request bodies: file names in old encodings are tolerated, and the limit that a form exceeds is reported."""

from __future__ import annotations

from typing import Any

from flask import Request
from werkzeug import formparser
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge, UnprocessableEntity
from werkzeug.sansio.multipart import MultipartDecoder

MAX_FIELD_BYTES = 500_000  # of a field that is not a file; it is held in memory
MAX_PARTS = 100


class FormTooLarge(RequestEntityTooLarge):
    """A form within the limit for uploads whose fields exceed the limits for memory."""

    description = (
        f"A form field exceeds {MAX_FIELD_BYTES // 1000} kB, or the form has more than {MAX_PARTS} fields. "
        "Send the recording as a file, for example with curl -F file=@song.mp3."
    )


class MalformedJson(UnprocessableEntity):
    """A body that should be JSON and is not."""

    description = "The body is not valid JSON. Send a JSON object."


class Decoder(MultipartDecoder):
    """Decodes the headers of a part, such as its file name, as UTF-8, or else as Windows-1252."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode("cp1252", "replace").encode()
        return super()._parse_headers(data)


# The form parser looks up its decoder here and offers no other way to choose one.
formparser.MultipartDecoder = Decoder  # type: ignore[attr-defined]


class FormRequest(Request):
    """A request that raises `FormTooLarge` if the fields of its form exceed their limits, or `MalformedJson`."""

    max_form_memory_size = MAX_FIELD_BYTES
    max_form_parts = MAX_PARTS

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        """Raise `MalformedJson`: the default names neither the problem nor the remedy."""
        raise MalformedJson from e

    def _load_form_data(self) -> None:
        try:
            super()._load_form_data()
        except RequestEntityTooLarge:
            if (self.content_length or 0) <= (self.max_content_length or 0):
                raise FormTooLarge from None
            raise

"""Forms as clients really send them: file names in old encodings, fields that should have been files."""

from __future__ import annotations

from flask import Request
from werkzeug import formparser
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import MultipartDecoder

MAX_FIELD_BYTES = 500_000  # of a field that is no file; it is held in memory
MAX_PARTS = 100


class FormTooLarge(RequestEntityTooLarge):
    """A form within the limit for uploads, with more in its fields than we hold in memory."""

    description = (
        f"A form field is longer than {MAX_FIELD_BYTES // 1000} kB, or there are more than {MAX_PARTS} fields; "
        "send the recording as a file, as curl -F file=@song.mp3 does."
    )


class Decoder(MultipartDecoder):
    """Reads the headers of a part, such as its file name, in UTF-8, or else as Windows-1252."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode("cp1252", "replace").encode()
        return super()._parse_headers(data)


# The form parser looks its decoder up here, and offers no other way to choose one.
formparser.MultipartDecoder = Decoder  # type: ignore[attr-defined]


class FormRequest(Request):
    """A request whose form says which limit it goes beyond."""

    max_form_memory_size = MAX_FIELD_BYTES
    max_form_parts = MAX_PARTS

    def _load_form_data(self) -> None:
        try:
            super()._load_form_data()
        except RequestEntityTooLarge:
            if (self.content_length or 0) <= (self.max_content_length or 0):
                raise FormTooLarge from None
            raise

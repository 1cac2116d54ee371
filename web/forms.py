"""Request bodies: file names in old encodings are tolerated, and the limit that a form exceeds is reported."""

from __future__ import annotations

from functools import cache
from typing import Any

from apiflask.schema_adapters import pydantic as schema_adapter
from flask import Request
from flask.json.provider import DefaultJSONProvider
from werkzeug import formparser
from werkzeug.datastructures import FileStorage, Headers, ImmutableMultiDict
from werkzeug.exceptions import RequestEntityTooLarge, UnprocessableEntity
from werkzeug.sansio.multipart import MultipartDecoder

MAX_FIELD_BYTES = 500_000  # of a field that is not a file; it is held in memory
MAX_PARTS = 100
SEND_RECORDING = (
    "send the recording as a file of a form, for example with curl -F file=@song.mp3, or as the body with "
    "its media type, with curl -H 'Content-Type: audio/mpeg' --data-binary @song.mp3"
)


class FormTooLarge(RequestEntityTooLarge):
    """A form within the limit for uploads whose fields exceed the limits for memory."""

    description = (
        f"A form field exceeds {MAX_FIELD_BYTES // 1000} kB, or the form has more than {MAX_PARTS} fields. "
        "Send the recording as a file, for example with curl -F file=@song.mp3."
    )


class MalformedJson(UnprocessableEntity):
    """A body that should be JSON and is not."""

    description = "The body is not valid JSON. Send a JSON object."


class RepeatedFieldError(ValueError):
    """A JSON object that has a field twice, of which parsers keep one."""


class StrictJson(DefaultJSONProvider):
    """Refuses repeated fields in what clients send; keeps the order of fields in what they get."""

    sort_keys = False

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """Return the value of a text in JSON.

        Raises:
            ValueError: it is not JSON, or a field is repeated.
        """
        return super().loads(s, object_pairs_hook=fields_once, **kwargs)


def fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of an object, as hook of a JSON parser.

    Raises:
        RepeatedFieldError
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in found if names.count(name) > 1)
        raise RepeatedFieldError(f"The field {repeated[:100]!r} is repeated. Send it once.")
    return found


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
# APIFlask looks for the fields with files in the types of a form anew for every request.
schema_adapter._get_fields_by_type = cache(schema_adapter._get_fields_by_type)  # type: ignore[attr-defined]


class FormRequest(Request):
    """A request that raises `FormTooLarge` if the fields of its form exceed their limits, or `MalformedJson`."""

    max_form_memory_size = MAX_FIELD_BYTES
    max_form_parts = MAX_PARTS

    def get_json(self, *args: Any, **kwargs: Any) -> Any:
        """Return the body's JSON; what is nested deeper than the parser goes is malformed, too."""
        try:
            return super().get_json(*args, **kwargs)
        except RecursionError:
            raise MalformedJson from None

    def on_json_loading_failed(self, e: ValueError | None) -> Any:
        """Raise `MalformedJson`, which names the remedy; a request without a body is an empty object."""
        if not self.content_length:
            return {}
        if isinstance(e, RepeatedFieldError):
            raise MalformedJson(str(e)) from None
        raise MalformedJson from e

    @property
    def is_recording(self) -> bool:
        """True if the body is a recording by itself, as `curl --data-binary @song.mp3` sends it."""
        return self.mimetype.startswith(("audio/", "video/")) or self.mimetype == "application/octet-stream"

    def _load_form_data(self) -> None:
        if self.is_recording:
            self._load_recording()
            return
        try:
            super()._load_form_data()
        except RequestEntityTooLarge:
            if (self.content_length or 0) <= (self.max_content_length or 0):
                raise FormTooLarge from None
            raise

    def _load_recording(self) -> None:
        """Take the body for the file of a form, and the query for its other fields."""
        body = self.environ["wsgi.input"]  # `web.bridge` has read it into a file
        fields = [(name, value) for name, value in self.args.items(multi=True) if name != "filename"]
        file = FileStorage(body, filename=self.args.get("filename") or "recording", name="file")
        self.__dict__["stream"] = body
        self.__dict__["form"] = ImmutableMultiDict(fields)
        self.__dict__["files"] = ImmutableMultiDict({"file": file})

"""JSON that clients send and get back with a job. Values that cannot be stored and returned are rejected."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from web.errors import InvalidRequest
from web.forms import RepeatedFieldError, fields_once

MAX_DEPTH = 32
EXAMPLE = '{"album": "Demo"}'


def _is_number(value: object) -> object:
    """Refuse text and true or false, which pydantic takes for numbers; 3.0 is an integer in JSON."""
    if isinstance(value, str | bool):
        raise PydanticCustomError("no_number", "send a number")
    return value


Integer = Annotated[int, BeforeValidator(_is_number)]


def read_object(name: str, text: str | None) -> dict[str, Any]:
    """Parse a form field that holds a JSON object; an empty field is an empty object.

    Raises:
        InvalidRequest: it is not a JSON object, or a value in it cannot be returned.
    """
    try:
        value = json.loads(text, object_pairs_hook=fields_once) if text else {}
    except RepeatedFieldError as error:
        raise InvalidRequest(f"{name}: {error}") from None
    except (ValueError, RecursionError):  # not JSON, or a number or a nesting beyond the parser's limits
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be a JSON object, for example {EXAMPLE}.")
    check_returnable(name, value)
    return value


def check_returnable(name: str, value: Any) -> None:
    """Raise if a value exceeds the limits of databases or JSON parsers and could not be returned unchanged.

    Raises:
        InvalidRequest: with the reason.
    """
    level, depth = [value], 1
    while level:
        below: list[Any] = []
        for part in level:
            if isinstance(part, dict | list) and depth > MAX_DEPTH:
                raise InvalidRequest(f"{name} must not be nested more than {MAX_DEPTH} levels deep.")
            if isinstance(part, dict):
                below += [*part.keys(), *part.values()]
            elif isinstance(part, list):
                below += part
            elif reason := _reason_against(part):
                raise InvalidRequest(f"{name} must not contain {reason}.")
        level, depth = below, depth + 1


def _reason_against(part: Any) -> str | None:
    if isinstance(part, str):
        if "\0" in part:
            return "NUL characters"
        if any("\ud800" <= c <= "\udfff" for c in part):
            return "unpaired surrogates"
    elif isinstance(part, float) and not math.isfinite(part):
        return "NaN or infinite numbers"
    elif isinstance(part, int) and part.bit_length() > 64:
        return "integers of more than 64 bits"
    return None

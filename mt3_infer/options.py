"""Options of models and exports: a table of names that users may give, each with its type and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mt3_infer.errors import InvalidOptionError


class Options(BaseModel):
    """Base class of options. Unknown names and wrong values are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


LONGEST_VALUE = 40
"""Characters of a wrong value in a message."""

Checked = TypeVar("Checked", bound=Options)


def check_options(kind: type[Checked], options: Mapping[str, Any], *, taker: str) -> Checked:
    """Return options as an instance of their class.

    Args:
        taker: what takes them, for the message.
    Raises:
        InvalidOptionError: an unknown name or a value out of range.
    """
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            takes = f"it takes: {known}" if known else "it takes none"
            raise InvalidOptionError(f"{taker} takes no option {name!r}; {takes}.") from error
        if not name:  # options that exclude each other
            raise InvalidOptionError(f"{taker}: {first['msg'].removeprefix('Value error, ')}.") from error
        raise InvalidOptionError(f"Option {name} of {taker}: {_problem(first, kind)}") from error


def _problem(error: ErrorDetails, kind: type[Options]) -> str:
    """Return a sentence about a wrong value; a pattern is explained by the field's description."""
    message = error["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    if " should " not in message:  # a message of our own
        return f"{message}."
    value = repr(error["input"])
    value = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}…"
    if error["type"] == "string_pattern_mismatch":
        return f"{value} does not fit. {kind.model_fields[str(error['loc'][0])].description}"
    return f"{message}, not {value}."

"""Options of commands, from the tables of models and formats: a new row brings its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from mt3_infer.options import Options


def with_options(takers: Mapping[str, type[Options]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds the options of all takers to a command; one that is not given is None."""
    names: dict[str, list[str]] = {}
    for taker, options in takers.items():
        for name in options.model_fields:
            names.setdefault(name, []).append(taker)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for name, who in reversed(names.items()):
            function = _option(name, takers[who[0]], who if len(who) < len(takers) else ["all"])(function)
        return function

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _option(name: str, options: type[Options], takers: list[str]) -> Callable[[Any], Any]:
    field = options.model_fields[name]
    flag = name.replace("_", "-")
    default = "" if field.default in ((), None, "") else f"; default: {field.default}"
    annotation = _without_none(field.annotation)
    kind: Any = annotation if annotation in (bool, int, float) else str
    if get_origin(annotation) is Literal:
        kind = click.Choice(get_args(annotation))
    return click.option(
        f"--{flag}" + (f"/--no-{flag}" if kind is bool else ""),
        name,
        type=kind,
        default=None,
        help=f"{field.description} [{', '.join(takers)}{default}]",
    )


def _without_none(annotation: Any) -> Any:
    """Return the type of an option that may be None."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation

"""Weights of one's own in the place of published ones: MT3_CHECKPOINTS_<MODEL>=/path/to/weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from checkpoints.catalog import Catalog
from checkpoints.errors import CheckpointError, UnknownCheckpointError

PREFIX = "MT3_CHECKPOINTS_"


def variable_of(model: str) -> str:
    """Return the name of the variable for a model."""
    return PREFIX + model.upper()


def own_weights(catalog: Catalog, environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Return the files or folders that MT3_CHECKPOINTS_<MODEL> name, by the name of the model.

    Raises:
        CheckpointError: there is no such model, or two variables name the same one.
    """
    found: dict[str, Path] = {}
    for variable, path in environ.items():
        if not variable.startswith(PREFIX) or not path:
            continue
        try:
            entry = catalog.resolve(variable.removeprefix(PREFIX).lower())
        except UnknownCheckpointError:
            known = ", ".join(map(variable_of, catalog.main_names))
            raise CheckpointError(f"{variable} names no model; the variables are: {known}.") from None
        if entry.name in found:
            raise CheckpointError(f"{variable} is the second variable with weights for {entry.name}: unset one.")
        found[entry.name] = Path(path).expanduser()
    return found

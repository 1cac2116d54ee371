"""Read `catalog.toml`: all checkpoints with their files, licenses, aliases and sources.

The result is validated, so that no other code has to: names are safe as file names,
sizes positive, sums well-formed, names and aliases unique, sources of a known kind with the options they take.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from checkpoints.errors import CatalogError, UnknownCheckpointError
from checkpoints.files import CheckpointFile, SourceSpec
from checkpoints.sources import open_source

BUILT_IN = Path(__file__).with_name("catalog.toml")
_ENTRY_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
COMMERCIAL_LICENSES = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "MIT", "MIT-0", "Unlicense"),
        *("CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-4.0"),
    }
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One checkpoint: the files that belong together, under one license.

    Attributes:
        license: of the weights, as an SPDX identifier.
        variant_of: the checkpoint that this one is another version of: not fetched unless it is named.
        is_model: False for files that no network runs on, such as a sound font.
        training_data: what is known of the recordings that the weights were trained on, in one sentence.
    """

    name: str
    aliases: tuple[str, ...]
    license: str
    license_url: str
    attribution: str
    files: tuple[CheckpointFile, ...]
    variant_of: str | None = None
    is_model: bool = True
    training_data: str = "Not stated."

    @property
    def allows_commercial_use(self) -> bool:
        """Return True if the license of the weights is known to allow commercial use."""
        return self.license in COMMERCIAL_LICENSES

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Catalog:
    """All checkpoints by name."""

    entries: dict[str, Entry]

    @property
    def main_names(self) -> tuple[str, ...]:
        """The names that "all" means: those of models that are no variant."""
        return tuple(name for name, entry in self.entries.items() if entry.is_model and entry.variant_of is None)

    @cached_property
    def _names(self) -> dict[str, Entry]:
        aliases = {alias: entry for entry in self.entries.values() for alias in entry.aliases}
        return {**aliases, **self.entries}

    def resolve(self, name_or_alias: str) -> Entry:
        """Return the entry of that name or alias.

        Raises:
            UnknownCheckpointError: there is none; the message lists those there are.
        """
        try:
            return self._names[name_or_alias]
        except KeyError:
            known = ", ".join(sorted(self._names))
            raise UnknownCheckpointError(
                f"There is no checkpoint called {name_or_alias!r}; the names are: {known}."
            ) from None


@cache
def load_catalog(path: Path = BUILT_IN) -> Catalog:
    """Read and check a catalog, once per path.

    Raises:
        CatalogError: what is wrong, and in which row.
    """
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"The catalog {path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise CatalogError(f"The catalog {path} is no TOML: {error}.") from error
    catalog = Catalog({name: _entry(name, row) for name, row in rows.items()})
    names = Counter(name for entry in catalog.entries.values() for name in (entry.name, *entry.aliases))
    for name, count in names.items():
        _require(count == 1, name, f"the name or alias is given {count} times")
    for entry in catalog.entries.values():
        _require(
            entry.variant_of is None or entry.variant_of in catalog.main_names,
            entry.name,
            f"it is a variant of {entry.variant_of}, which there is not",
        )
    return catalog


def _entry(name: str, row: Mapping[str, Any]) -> Entry:
    _require(_ENTRY_NAME.fullmatch(name) is not None, name, "the name must be of a-z, 0-9 and _")
    try:
        entry = Entry(
            name=name,
            aliases=tuple(row["aliases"]),
            license=row["license"],
            license_url=row["license_url"],
            attribution=row["attribution"],
            files=tuple(_file(name, file) for file in row["files"]),
            variant_of=row.get("variant_of"),
            is_model=row.get("is_model", True),
            training_data=row.get("training_data", Entry.training_data),
        )
    except KeyError as missing:
        raise CatalogError(f"Catalog row {name}: {missing} is missing.") from None
    _require(isinstance(entry.is_model, bool), name, "is_model must be true or false")
    _require(bool(entry.files), name, "it has no files")
    _require(len({file.name for file in entry.files}) == len(entry.files), name, "two files share a name")
    return entry


def _file(entry: str, row: Mapping[str, Any]) -> CheckpointFile:
    file = CheckpointFile(
        name=row["name"],
        size=row["size"],
        sha256=row.get("sha256"),
        sources=tuple(map(_source, row["sources"])),
        estimated=row.get("estimated", False),
    )
    where = f"{entry}/{file.name}"
    _require(_FILE_NAME.fullmatch(file.name) is not None, where, "the file name is not plain")
    _require(isinstance(file.size, int) and file.size > 0, where, "the size must be a number of bytes")
    _require(isinstance(file.estimated, bool), where, "estimated must be true or false")
    is_valid = file.sha256 is None or _SHA256.fullmatch(file.sha256) is not None
    _require(is_valid, where, "the sha256 must be 64 hexadecimal digits")
    _require(bool(file.sources), where, "it has no sources")
    for source in file.sources:
        try:
            open_source(source)
        except (LookupError, TypeError) as error:
            raise CatalogError(f"Catalog row {where}: {error}.") from None
    return file


def _source(row: Mapping[str, str]) -> SourceSpec:
    return SourceSpec(row["kind"], {key: value for key, value in row.items() if key != "kind"})


def _require(condition: bool, where: str, what: str) -> None:
    if not condition:
        raise CatalogError(f"Catalog row {where}: {what}.")

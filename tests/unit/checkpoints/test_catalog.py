"""The catalog that ships is right, and one that is wrong is refused with the row that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints.catalog import load_catalog
from checkpoints.errors import CatalogError, UnknownCheckpointError
from mt3_infer.models import MODELS

ROW = """
[tiny]
aliases = ["small"]
license = "MIT"
license_url = "https://example.org"
attribution = "nobody"
[[tiny.files]]
name = "weights.bin"
size = 7
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
sources = [{kind = "wheel", package = "p", version = "1", member = "m"}]
"""


def test_every_model_has_a_checkpoint() -> None:
    assert set(MODELS) <= set(load_catalog().entries)


def test_variants_are_not_part_of_all() -> None:
    names = load_catalog().main_names
    assert {"basic_pitch", "mt3_pytorch", "mr_mt3", "yourmt3", "transkun"} <= set(names)
    assert {"mt3_t5x", "yourmt3_single"}.isdisjoint(names)


@pytest.mark.parametrize(
    ("alias", "name", "file", "size", "sha256"),
    [
        ("default", "mt3_pytorch", "mt3.pth", 183_672_643, "b8a3807e"),
        ("multitask", "yourmt3", "last.ckpt", 561_544_628, "ae38e415"),
        ("piano", "transkun", "2.0.pt", 56_408_978, "50a80010"),
    ],
)
def test_published_files_are_pinned(alias: str, name: str, file: str, size: int, sha256: str) -> None:
    entry = load_catalog().resolve(alias)
    assert (entry.name, entry.files[0].name, entry.files[0].size) == (name, file, size)
    assert entry.files[0].sha256.startswith(sha256)


def test_basic_pitch_is_pinned_to_the_published_file() -> None:
    entry = load_catalog().resolve("light")
    assert (entry.name, entry.license, entry.size) == ("basic_pitch", "Apache-2.0", 230_444)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownCheckpointError) as caught:
        load_catalog().resolve("basic_pich")
    message = str(caught.value)
    named = message.partition("the names are: ")[2].rstrip(".").split(", ")
    assert named == sorted(named)
    assert {"accurate", "basic_pitch", "default", "light", "mt3_t5x"} <= set(named)
    assert "'basic_pich'" in message


def test_a_sound_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(ROW)
    assert load_catalog(path).resolve("small").files[0].sources[0].options["member"] == "m"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[tiny]", "[Tiny]", "Catalog row Tiny: the name must be of a-z, 0-9 and _."),
        ('["small"]', '["tiny"]', "Catalog row tiny: the name or alias is given 2 times."),
        ('license = "MIT"', "", "Catalog row tiny: 'license' is missing."),
        ('"weights.bin"', '"../weights.bin"', "Catalog row tiny/../weights.bin: the file name is not plain."),
        ('license = "MIT"', 'license = "MIT"\nvariant_of = "big"', "it is a variant of big, which there is not."),
        ("size = 7", "size = 0", "Catalog row tiny/weights.bin: the size must be a number of bytes."),
        ("0000000", "G000000", "Catalog row tiny/weights.bin: the sha256 must be 64 hexadecimal digits."),
        (
            '"wheel"',
            '"owl"',
            "Catalog row tiny/weights.bin: there is no source of kind 'owl'; the kinds are: "
            "git, git_lfs, huggingface, npm, t5x, url, wheel.",
        ),
        (', member = "m"', "", "1 required positional argument: 'member'."),
        ("[{kind", "[] # [{kind", "Catalog row tiny/weights.bin: it has no sources."),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(ROW.replace(old, new, 1).replace("[[tiny.", f"[[{'Tiny' if 'Tiny' in new else 'tiny'}."))
    with pytest.raises(CatalogError) as caught:
        load_catalog(path)
    assert str(caught.value).endswith(message)

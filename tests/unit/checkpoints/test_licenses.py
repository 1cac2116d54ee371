"""MT3_LICENSES: which weights may be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints.catalog import load_catalog
from checkpoints.errors import CheckpointError, LicenseNotAdmittedError
from checkpoints.store import CheckpointStore, admitted_licenses

ROW = """[{name}]
aliases = []
license = "{license}"
license_url = ""
attribution = ""
files = [{{name = "weights.bin", size = 1, sources = [{{kind = "url", url = "http://127.0.0.1:1/w"}}]}}]
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    catalog = tmp_path / "catalog.toml"
    licenses = {"free": "MIT", "closed": "CC-BY-NC-SA-4.0", "odd": "see the README"}
    catalog.write_text("".join(ROW.format(name=name, license=license) for name, license in licenses.items()))
    return {"MT3_CHECKPOINT_CATALOG": str(catalog), "MT3_CHECKPOINT_DIR": str(tmp_path), "MT3_OFFLINE": "1"}


def test_only_licenses_known_to_allow_commercial_use_are_admitted(environ: dict[str, str]) -> None:
    store = CheckpointStore.from_environment(environ | {"MT3_LICENSES": "commercial"})
    assert [name for name in store.catalog.entries if store.admits(name)] == ["free"]
    for name in ("closed", "odd"):
        for use in (store.fetch, store.require):
            with pytest.raises(LicenseNotAdmittedError, match=rf"{name} have the license .* MT3_LICENSES=any"):
                use(name)
    anything = CheckpointStore.from_environment(environ)
    assert all(anything.admits(name) for name in anything.catalog.entries)


def test_a_value_that_does_not_exist_is_an_error() -> None:
    assert admitted_licenses({"MT3_LICENSES": " Commercial "}) == "commercial"
    with pytest.raises(CheckpointError, match="any or commercial"):
        admitted_licenses({"MT3_LICENSES": "free"})


def test_every_checkpoint_of_a_model_states_its_training_data() -> None:
    for entry in load_catalog().entries.values():
        assert entry.training_data != "Not stated." or not entry.is_model, entry.name

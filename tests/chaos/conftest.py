"""Recordings for all runs."""

from __future__ import annotations

import pytest

from tests.chaos.ledger import make_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return make_clips(tmp_path_factory.mktemp("clips"))

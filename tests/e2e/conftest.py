"""The whole service as `make run` starts it, shared by the tests that do not damage it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.client import ServiceClient


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path) -> Iterator[servers.Service]:
    environment = {"MT3_CHECKPOINT_DIR": str(checkpoint_dir), "MT3_LEASE_SECONDS": "3"}
    with servers.whole_service(tmp_path_factory.mktemp("service"), environment) as running:
        yield running


@pytest.fixture
def client(service: servers.Service) -> ServiceClient:
    return ServiceClient(service.url)

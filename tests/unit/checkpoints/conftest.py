"""A web server for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web_server import Site, web_server


@pytest.fixture
def site() -> Iterator[Site]:
    with web_server() as site:
        yield site

"""The whole service as `make run` starts it, and a browser, shared by the tests that do not damage them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import servers
from tests.client import ServiceClient
from tests.sound_fonts import write_sound_font

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.e2e.pages import OpenTab, ServicePage

NETWORK_COMPLAINT = "Failed to load resource"


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path) -> Iterator[servers.Service]:
    folder = tmp_path_factory.mktemp("service")
    environment = {
        "MT3_CHECKPOINT_DIR": str(checkpoint_dir),
        "MT3_SOUND_FONT": str(write_sound_font(folder / "tone.sf2")),
        "MT3_LEASE_SECONDS": "3",
    }
    with servers.whole_service(folder, environment) as running:
        yield running


@pytest.fixture
def client(service: servers.Service) -> ServiceClient:
    return ServiceClient(service.url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")
    from tests.e2e.pages import find_browser, launch

    executable = find_browser()
    if executable is None:
        pytest.skip("no Chromium on this machine")
    with launch(executable) as browser:
        yield browser


@pytest.fixture
def open_tab(browser: Browser, service: servers.Service) -> Iterator[OpenTab]:
    """Open tabs on the service. None may have logged errors or violated the content policy by the end."""
    from tests.e2e.pages import DESKTOP, ServicePage

    tabs: list[tuple[ServicePage, bool]] = []

    def open_tab(*, allow_network_errors: bool = False, script: str = "", **options: Any) -> ServicePage:
        context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB", **options})
        tab = ServicePage(context.new_page(), service.url)
        tabs.append((tab, allow_network_errors))
        if script:
            tab.page.add_init_script(script)
        tab.open()
        return tab

    yield open_tab
    for tab, allowed in tabs:
        complaints = [c for c in tab.complaints if not (allowed and c.startswith(NETWORK_COMPLAINT))]
        complaints += tab.page.evaluate("window.violations")
        tab.page.context.close()
        assert complaints == []

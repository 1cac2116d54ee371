"""The model `auto` in the whole service: Basic Pitch at once, and MT3 as soon as it has been fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.client import ServiceClient
from tests.web_server import Reply, Site, web_server

pytestmark = pytest.mark.e2e

WEIGHTS = {"basic_pitch": b"small weights", "mt3_pytorch": bytes(400_000)}
ROW = """[{name}]
aliases = []
license = "MIT"
license_url = ""
attribution = ""
files = [{{name = "weights.bin", size = {size}, sha256 = "{sha256}", sources = [{{kind = "url", url = "{url}"}}]}}]
"""


@contextmanager
def service(tmp_path: Path, site: Site) -> Iterator[servers.Service]:
    """Run a service whose catalog has the two models, published by `site`."""
    catalog = tmp_path / "catalog.toml"
    rows = (
        ROW.format(
            name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest(), url=f"{site.url}/{name}"
        )
        for name, content in WEIGHTS.items()
    )
    catalog.write_text("".join(rows))
    environment = {"MT3_DEFAULT_MODEL": "auto", "MT3_CHECKPOINT_CATALOG": str(catalog)}
    with servers.whole_service(tmp_path, environment) as running:
        yield running


@pytest.fixture
def site() -> Iterator[Site]:
    with web_server() as site:
        site.routes["/basic_pitch"] = lambda _: Reply(200, WEIGHTS["basic_pitch"])
        yield site


def model(client: ServiceClient, name: str) -> dict[str, Any]:
    return next(model for model in client.get("/v1/models").json["items"] if model["name"] == name)


def chosen(client: ServiceClient) -> str:
    name: str = client.submit(b"RIFF").json["model"]
    return name


def test_service_is_ready_at_once_and_changes_to_mt3(tmp_path: Path, site: Site) -> None:
    site.routes["/mt3_pytorch"] = lambda _: Reply(200, WEIGHTS["mt3_pytorch"], rate=100_000)
    with service(tmp_path, site) as running:
        client = ServiceClient(running.url)
        servers.wait_until(lambda: model(client, "mt3_pytorch")["download"], what="a download in /v1/models")
        assert chosen(client) == "basic_pitch"
        assert model(client, "basic_pitch")["default"]
        servers.wait_until(lambda: model(client, "mt3_pytorch")["installed"], what="MT3's weights")
        assert chosen(client) == "mt3_pytorch"
        assert (model(client, "mt3_pytorch")["default"], model(client, "mt3_pytorch")["download"]) == (True, None)
        log = running.log.read_text()
        assert "background_fetch_started" in log
        assert "background_fetch_finished" in log


def test_basic_pitch_stays_if_mt3_cannot_be_fetched(tmp_path: Path, site: Site) -> None:
    with service(tmp_path, site) as running:
        client = ServiceClient(running.url)
        servers.wait_until(lambda: model(client, "mt3_pytorch")["error"], seconds=60, what="the failure")
        assert model(client, "mt3_pytorch")["error"].startswith("The model could not be downloaded.")
        assert chosen(client) == "basic_pitch"
        (line,) = [line for line in running.log.read_text().splitlines() if "background_fetch_failed" in line]
        assert "404" in line
        assert "in_use=basic_pitch" in line


@pytest.mark.browser
def test_page_shows_the_download(tmp_path: Path, site: Site) -> None:
    pages = pytest.importorskip("tests.e2e.pages", reason="playwright's Python package is not installed")
    executable = pages.find_browser()
    if executable is None:
        pytest.skip("no Chromium on this machine")
    site.routes["/mt3_pytorch"] = lambda _: Reply(200, WEIGHTS["mt3_pytorch"], rate=40_000)
    with service(tmp_path, site) as running, pages.launch(executable) as browser:
        tab = pages.ServicePage(browser.new_page(), running.url)
        tab.open()
        about = tab.page.locator("#model-about")
        pages_expect = pytest.importorskip("playwright.sync_api").expect
        pages_expect(tab.page.locator("#model")).to_have_value("auto")
        pages_expect(about).to_contain_text(
            "Uses Basic Pitch for now. MT3, which is more accurate, is being", timeout=20_000
        )
        tab.screenshot("automatic")
        pages_expect(tab.page.get_by_label("What do you hear? (optional)", exact=True)).to_be_visible()
        pages_expect(tab.page.locator("#options")).to_be_hidden()  # what one model takes, the other does not
        pages_expect(tab.page.get_by_label("Onset threshold", exact=True)).to_have_count(0)
        pages_expect(about).to_contain_text("MT3: Several instruments", timeout=40_000)
        assert tab.complaints == []

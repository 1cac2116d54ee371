"""The page of a service that needs keys: logging in, sharing, and what a share link opens."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests import servers
from tests.client import ServiceClient
from tests.e2e.pages import DESKTOP, PATIENCE_MS, PHONE, ServicePage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.browser]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path) -> Iterator[servers.Service]:
    folder = tmp_path_factory.mktemp("keyed")
    environment = {"MT3_CHECKPOINT_DIR": str(checkpoint_dir), "MT3_AUTH": "keys"}
    with servers.whole_service(folder, environment) as running:
        yield running


def make_key(service: servers.Service, name: str, *words: str) -> str:
    database = {"MT3_DATABASE_URL": f"sqlite:///{service.folder / 'var' / 'mt3.sqlite3'}"}
    command = [str(servers.BIN / "mt3-infer"), "keys", "create", name, *words]
    return subprocess.check_output(command, env={**os.environ, **database}, text=True).strip()


def violations(page: Page) -> list[str]:
    """Return what axe-core finds on a page."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:160]}" for each in found for node in each["nodes"]]


def new_tab(browser: Browser, service: servers.Service, path: str = "/", **options: object) -> ServicePage:
    settings: dict[str, Any] = {"viewport": DESKTOP, "reduced_motion": "reduce", "bypass_csp": True, **options}
    context = browser.new_context(locale="en-GB", **settings)
    tab = ServicePage(context.new_page(), service.url)
    tab.page.goto(service.url + path)
    return tab


def test_page_asks_for_a_key_and_shares_by_a_link(browser: Browser, keyed: servers.Service, bach: Path) -> None:
    key = make_key(keyed, "Ada")
    tab = new_tab(browser, keyed)
    page = tab.page

    # The dialog has the focus; a wrong key is refused with a message.
    dialog = page.get_by_role("dialog", name="Log in")
    expect(dialog.get_by_label("Key")).to_be_focused()
    page.keyboard.type("mt3_wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("The key is invalid, expired or revoked.")
    assert violations(page) == []
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    page.locator("#model:enabled").wait_for(state="attached")
    expect(dialog).to_be_hidden()
    assert key not in page.evaluate("document.cookie")

    # Uploading, listening and sharing work with the cookie.
    tab.transcribe(bach)
    page.get_by_role("button", name="Share").click()
    share = page.get_by_role("dialog", name="Share by a link")
    field = share.get_by_label("Link")
    expect(field).not_to_have_value("")
    url = field.input_value()
    assert url.startswith(f"{keyed.url}/s/mt3s_")
    assert violations(page) == []

    # A visitor without a key sees the notes and nothing else.
    visitor = new_tab(browser, keyed, url.removeprefix(keyed.url), viewport=PHONE)
    visitor.note_count.wait_for(timeout=PATIENCE_MS)
    visitor.expect_color(over=500)
    assert violations(visitor.page) == []
    for name in ("Delete", "Share", "Edit notes", "Cancel", "Try again", "Log in", "Log out"):
        expect(visitor.page.get_by_role("button", name=name, exact=True)).to_be_hidden()
    expect(visitor.page.locator("#jobs")).to_be_hidden()
    expect(visitor.page.locator("#login")).to_be_hidden()
    with visitor.page.expect_download() as midi:
        visitor.page.get_by_role("link", name="Download MIDI").click()
    assert midi.value.path().read_bytes().startswith(b"MThd")

    # Once it is revoked, the link opens nothing.
    share.get_by_role("button", name="Revoke").click()
    expect(share).to_be_hidden()
    assert_gone(url, keyed)
    visitor.page.reload()
    expect(visitor.page.locator("#job-title")).to_have_text("Transcription not found", timeout=PATIENCE_MS)

    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("dialog", name="Log in")).to_be_visible()
    assert page.evaluate("window.violations") == []
    assert visitor.page.evaluate("window.violations") == []
    for each in (tab, visitor):
        assert [words for words in each.complaints if not words.startswith("Failed to load resource")] == []
        each.page.context.close()


def assert_gone(url: str, service: servers.Service) -> None:
    """Wait until none of the web processes remembers the link: each request may be another one's."""
    client, path = ServiceClient(service.url), f"/v1/shared/{url.rpartition('/')[2]}"
    requests = range(20)
    servers.wait_until(lambda: all(client.get(path).status == 404 for _ in requests), what="the end of the link")


def test_two_keys_see_their_own_jobs_only(keyed: servers.Service, bach: Path) -> None:
    client = ServiceClient(keyed.url)
    ada, bob = ({"Authorization": f"Bearer {make_key(keyed, name)}"} for name in ("Ada", "Bob"))
    answer = client.call("POST", "/v1/transcriptions", data=bach.read_bytes(), Content_Type="audio/flac", **ada)
    assert answer.status == 202
    path = f"/v1/transcriptions/{answer.json['id']}"
    assert client.get(path, **ada).status == 200
    assert client.get(path, **bob).status == 404
    assert client.get(path).status == 401
    assert client.get("/v1/transcriptions", **bob).json["items"] == []
    ended = client.get(path, Prefer="wait=60", **ada)
    assert ended.json["status"] == "succeeded", ended.body

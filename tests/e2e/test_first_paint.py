"""How soon the page can be used on a slow connection, and how much it loads before the first job."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright's Python package is not installed")

from playwright.sync_api import Browser, Request, Response, Route, expect

from tests.client import ServiceClient
from tests.e2e.pages import PATIENCE_MS, OpenTab

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

BEFORE_THE_FIRST_JOB = 200_000  # bytes, compressed
USABLE = 1500  # ms after the page was asked for
LATENCY = 150  # ms
SPEED = 1.6e6 / 8  # bytes per second
AT_ONCE = 6  # connections of a browser to a server without HTTP/2

WATCH_SCRIPT = """
new MutationObserver(() => {
  if (document.querySelector("#model:enabled")) window.usable ||= performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true });
"""
# What was asked for until the page could be used: name, time of the request, and bytes that came.
RESOURCES_SCRIPT = """
() => performance.getEntriesByType("resource")
  .filter((each) => each.startTime < window.usable)
  .map((each) => [new URL(each.name).pathname, each.startTime, each.transferSize])
"""


def open_slowly(browser: Browser, url: str) -> dict[str, Any]:
    """Return when the page could be used, in ms, and what it loaded until then."""
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(WATCH_SCRIPT)
    network = {"offline": False, "latency": LATENCY, "downloadThroughput": SPEED, "uploadThroughput": SPEED}
    context.new_cdp_session(page).send("Network.emulateNetworkConditions", network)
    page.goto(url, wait_until="commit")
    page.locator("#model:enabled").wait_for(state="attached")
    found = {"usable": page.evaluate("window.usable"), "resources": page.evaluate(RESOURCES_SCRIPT)}
    context.close()
    return found


def test_page_asks_at_once_for_little_until_it_can_be_used(browser: Browser, service: Any) -> None:
    found = open_slowly(browser, service.url)["resources"]
    first = min(start for _, start, _ in found)
    needed = [each for each in found if each[1] < first + LATENCY]
    assert {name for name, *_ in needed} >= {"/static/page.css", "/static/js/main.js", "/v1/models"}
    modules = {name for name, *_ in found if name.endswith(".js")}
    assert modules == {name for name, *_ in needed if name.endswith(".js")}, "no module waits for another one"
    # The page itself, then as many round trips as it takes, and the time of the bytes.
    round_trips = 1 + -(-len(needed) // AT_ONCE)
    transfer = 1000 * sum(size for *_, size in needed) / SPEED
    assert round_trips * LATENCY + transfer < USABLE - 200, (round_trips, transfer)


@pytest.mark.soak
def test_page_can_be_used_soon_on_a_slow_connection(browser: Browser, service: Any) -> None:
    times = sorted(open_slowly(browser, service.url)["usable"] for _ in range(5))
    print(f"usable after {times[2]:.0f} ms (the median of five), at 1.6 Mbit/s and 150 ms")
    assert times[2] < USABLE, times


def test_page_is_light_before_the_first_job(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.page.goto("about:blank")  # responses of a page that is left have no body
    fetched: list[Response] = []
    tab.page.on("response", lambda response: fetched.append(response))
    tab.open()
    tab.page.wait_for_load_state("networkidle")
    static = [response for response in fetched if "/static/" in response.url or response.url.endswith("/")]
    assert len(static) > 70, "with the modules that are fetched in advance"
    size = sum(len(gzip.compress(response.body())) for response in static if response.ok)
    assert size < BEFORE_THE_FIRST_JOB, size


def test_part_of_the_page_is_fetched_when_the_connection_is_back(open_tab: OpenTab, client: ServiceClient) -> None:
    job_id = client.submit(b"RIFF0000WAVE" + bytes(500), name="no recording.wav").json["id"]
    tab = open_tab(allow_network_errors=True)
    failed: list[Request] = []
    tab.page.on("requestfailed", lambda request: failed.append(request))
    tab.page.route("**/js/job.js", lambda route: route.abort("internetdisconnected"))
    with tab.page.expect_event("requestfailed", lambda _: len(failed) > 1, timeout=PATIENCE_MS):
        tab.open(f"#/t/{job_id}")
    tab.page.unroute("**/js/job.js")
    expect(tab.page.get_by_role("heading", level=1)).to_have_text("no recording.wav", timeout=PATIENCE_MS)


def test_page_recovers_from_a_module_that_could_not_be_fetched(open_tab: OpenTab) -> None:
    tab = open_tab(allow_network_errors=True)
    failures = iter([True])

    def fail_once(route: Route) -> None:
        if next(failures, False):
            route.abort("internetdisconnected")
        else:
            route.continue_()

    tab.page.route("**/static/js/polling.js", fail_once)
    tab.open()
    assert tab.page.evaluate("sessionStorage.length") == 0, "the next failure is counted from the start"

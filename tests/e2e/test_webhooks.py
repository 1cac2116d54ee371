"""Webhooks of the whole service: a real worker sends them to a receiver that fails for a while."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests import servers
from tests.client import ServiceClient
from tests.web_server import Site, in_turn, status, web_server

pytestmark = pytest.mark.e2e

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def receiver() -> Iterator[Site]:
    with web_server() as site:
        site.routes["/hook"] = in_turn(status(500), status(204))
        yield site


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path) -> Iterator[servers.Service]:
    environment = {
        "MT3_CHECKPOINT_DIR": str(checkpoint_dir),
        "MT3_WEBHOOK_SECRET": SECRET,
        "MT3_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    with servers.whole_service(tmp_path_factory.mktemp("webhooks"), environment) as running:
        yield running


def test_receiver_that_fails_once_gets_the_event_of_a_job(
    service: servers.Service, receiver: Site, bach: Path
) -> None:
    client = ServiceClient(service.url)
    job = client.transcribe(bach, webhook_url=receiver.url + "/hook")
    servers.wait_until(lambda: len(receiver.requests) == 2, seconds=60, what="the second attempt")
    events = [Webhook(SECRET).verify(request.body, request.headers) for request in receiver.requests]
    assert events[0] == events[1]
    assert events[0]["type"] == "transcription.succeeded"
    assert (events[0]["data"]["id"], events[0]["data"]["note_count"]) == (job["id"], job["note_count"])
    address = f"/v1/transcriptions/{job['id']}/deliveries"

    def is_delivered() -> bool:
        return bool(client.get(address).json["items"][0]["status"] == "succeeded")

    servers.wait_until(is_delivered, what="the log of the delivery")
    (delivery,) = client.get(address).json["items"]
    assert [attempt["outcome"] for attempt in delivery["attempts"]] == ["failed", "succeeded"]
    assert client.call("POST", f"{address}/{delivery['id']}/redeliver").status == 202
    servers.wait_until(lambda: len(receiver.requests) == 3, what="the repeated delivery")

"""The nginx configuration of `deploy/proxy`, in a real nginx in front of the web process."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.client import ServiceClient
from tests.debian import find_program

pytestmark = pytest.mark.integration

SITE = (Path(__file__).parents[2] / "deploy" / "proxy" / "nginx.conf").read_text()
HTTP = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {site}
}}
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    """The service behind nginx, without TLS."""
    folder = tmp_path_factory.mktemp("proxy")
    nginx, port = find_program("nginx", "nginx"), servers.free_port()
    with servers.web_process(folder) as url:
        site = re.sub(r"ssl_certificate.*;", "", SITE)
        site = site.replace("443 ssl", f"127.0.0.1:{port}").replace("http://127.0.0.1:8000", url)
        (folder / "nginx.conf").write_text(HTTP.format(folder=folder, site=site))
        command = [str(nginx), "-p", str(folder), "-c", str(folder / "nginx.conf")]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        with servers.running(command, log=folder / "nginx.log"):
            servers.wait_until(lambda: servers.accepts(port), what="nginx")
            yield ServiceClient(f"http://127.0.0.1:{port}")


def test_large_upload_and_ranges_of_it_pass(client: ServiceClient) -> None:
    recording = bytes(range(256)) * 40_000  # 10 MB, ten times nginx's own limit
    answer = client.submit(recording)
    assert answer.status == 202, answer.body
    part = client.get(f"/v1/transcriptions/{answer.json['id']}/audio", Range="bytes=1000-1099")
    assert (part.status, part.body) == (206, recording[1000:1100])


def test_waiting_request_is_answered_as_without_a_proxy(client: ServiceClient) -> None:
    job_id = client.submit(b"sound").json["id"]
    waited = client.get(f"/v1/transcriptions/{job_id}", Prefer="wait=2")
    assert (waited.status, waited.headers["Preference-Applied"]) == (200, "wait=2")


def test_request_id_of_the_proxy_is_that_of_the_service(client: ServiceClient) -> None:
    assert re.fullmatch("[0-9a-f]{32}", client.get("/v1/models").headers["X-Request-ID"])


def test_metrics_stay_inside(client: ServiceClient) -> None:
    assert client.get("/metrics").status == 404
    assert client.get("/livez").status == 200

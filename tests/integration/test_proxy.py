"""The examples of `deploy/proxy`, in a real nginx and a real Caddy with TLS in front of the web process."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import servers
from tests.certificates import make_certificate
from tests.client import ServiceClient
from tests.debian import find_program
from web.waits import MAX_WAIT_SECONDS

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "deploy" / "proxy"
NGINX, CADDY = (EXAMPLES / "nginx.conf").read_text(), (EXAMPLES / "Caddyfile").read_text()
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
OPTIONS = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"


def nginx(folder: Path, port: int, service: str) -> list[str]:
    """Return the command that runs nginx with our example, at another address."""
    certificate, key = make_certificate(folder, "IP:127.0.0.1,DNS:localhost")
    site = NGINX.replace("/etc/ssl/notes.pem", str(certificate)).replace("/etc/ssl/notes.key", str(key))
    site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl").replace("http://127.0.0.1:8000", service)
    (folder / "nginx.conf").write_text(HTTP.format(folder=folder, site=site))
    command = [str(find_program("nginx", "nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    return command


def caddy(folder: Path, port: int, service: str) -> list[str]:
    """Return the command that runs Caddy with our example, at another address and with a certificate of ours."""
    certificate, key = make_certificate(folder, "IP:127.0.0.1,DNS:localhost")
    site = CADDY.replace("notes.example.org {", f"https://localhost:{port} {{\n\ttls {certificate} {key}")
    site = site.replace("127.0.0.1:8000", urlsplit(service).netloc)
    (folder / "Caddyfile").write_text(OPTIONS + site)
    return [str(find_program("caddy", "caddy")), "run", "--config", str(folder / "Caddyfile")]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=lambda proxy: proxy.__name__)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    """The service behind a proxy, with TLS."""
    folder = tmp_path_factory.mktemp("proxy")
    port = servers.free_port()
    with servers.web_process(folder) as service, pytest.MonkeyPatch.context() as patch:
        command = request.param(folder, port, service)
        patch.setenv("SSL_CERT_FILE", str(folder / "certificate.pem"))
        home = {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
        with servers.running(command, log=folder / "proxy.log", environment=home):
            servers.wait_until(lambda: servers.accepts(port), what="the proxy", seconds=60)
            yield ServiceClient(f"https://localhost:{port}")


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


def test_events_arrive_while_the_stream_is_open(client: ServiceClient) -> None:
    job_id = client.submit(b"sound").json["id"]
    connection = http.client.HTTPSConnection(
        urlsplit(client.url).netloc, timeout=20, context=ssl.create_default_context()
    )
    connection.request("GET", f"/v1/transcriptions/{job_id}/events")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    lines = [answer.readline() for _ in range(5)]  # no worker runs: the job and its stream do not end
    assert any(line.startswith(b"data: ") for line in lines), lines
    connection.close()


def test_request_id_of_the_proxy_is_that_of_the_service(client: ServiceClient) -> None:
    assert re.fullmatch("[0-9a-f-]{32,36}", client.get("/v1/models").headers["X-Request-ID"])


def test_metrics_stay_inside(client: ServiceClient) -> None:
    assert client.get("/metrics").status == 404
    assert client.get("/livez").status == 200


@pytest.mark.parametrize(("site", "name"), [(NGINX, "proxy_read_timeout"), (CADDY, "read_timeout")])
def test_time_outs_are_longer_than_the_longest_wait(site: str, name: str) -> None:
    (seconds,) = re.findall(rf"\b{name} (\d+)s", site)
    assert float(seconds) > MAX_WAIT_SECONDS

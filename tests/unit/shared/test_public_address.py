"""Requests to URLs that clients name reach public addresses only: the one that was checked, at every redirect."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.public_address import AddressRefused, PublicHttp, RequestFailed, is_public
from tests.dns import DnsServer
from tests.sites import running, sends

REFUSED_URLS = [
    # private, loopback, link-local, metadata, carrier-grade NAT, multicast, reserved
    *("http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://127.0.0.1/", "http://127.8.8.8/"),
    *("http://169.254.169.254/latest/meta-data/", "http://169.254.0.1/", "http://100.64.0.1/", "http://0.0.0.0/"),
    *("http://100.100.100.200/", "http://168.63.129.16/", "http://192.0.0.192/", "http://224.0.0.1/"),
    *("http://239.255.255.250/", "http://240.0.0.1/", "http://255.255.255.255/", "http://198.18.0.1/"),
    *("http://192.0.2.1/", "http://198.51.100.1/", "http://203.0.113.1/", "http://192.88.99.1/"),
    # IPv6
    *("http://[::1]/", "http://[::]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[fc00::1]/"),
    *("http://[fd00:ec2::254]/", "http://[ff02::1]/", "http://[2001:db8::1]/", "http://[3fff::1]/"),
    *("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:ffff:8.8.8.8]/"),
    *("http://[::127.0.0.1]/", "http://[2002:7f00:1::]/", "http://[64:ff9b::7f00:1]/", "http://[64:ff9b:1::1]/"),
    *("http://[2001:0:7f00:1::1]/", "http://[::ffff:0:127.0.0.1]/", "http://[v1.fe80]/"),
    # other ways to write IPv4 addresses
    *("http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/"),
    *("http://017700000001/", "http://127.0.1/", "http://127.000.000.001/", "http://0/", "http://0x/"),
    *("http://1.2.3.4.5/", "http://8.8.8.08/", "http://8.8.8.256/", "http://127.0.0.1./", "http://example.0x7f/"),
    *("http://１２７.0.0.1/", "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://127%2e0%2e0%2e1/"),
    # parts that parsers read differently, and other schemes
    *("http://user:secret@example.org/", "http://@example.org/", "http://example.org\\@127.0.0.1/"),
    *(
        "http://example.org#@127.0.0.1/ x",
        "http://exa mple.org/",
        "http://example.org\t/",
        "http://example.org\r\n/",
    ),
    *("http://example.org:port/", "http://example.org:99999/", "http:///path", "http://", "//example.org/", ""),
    *("ftp://example.org/", "file:///etc/passwd", "gopher://example.org/", "data:audio/wav;base64,AA", "[", "x"),
    *("http://exam%70le.org/", "http://example..org/", "http://-example.org/", f"http://{'a' * 64}.org/"),
    f"http://example.org/{'a' * 2000}",
    # ports of other services
    *("http://example.org:22/", "http://example.org:6379/", "https://example.org:25/", "http://8.8.8.8:11211/"),
    "http://example.org:0/",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_url_is_refused_before_any_name_is_resolved(url: str) -> None:
    def resolver(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was resolved")

    http = PublicHttp(resolver=resolver)
    with pytest.raises(AddressRefused) as refused:
        http.parse(url)
    assert str(refused.value).endswith(".")
    with pytest.raises(AddressRefused), http.open("GET", url):
        pass


@pytest.mark.parametrize(
    ("url", "host", "header", "path"),
    [
        ("https://example.org", "example.org", "example.org", "/"),
        ("HTTPS://Example.ORG.:443/a%20b?c=d#e", "example.org", "example.org", "/a%20b?c=d"),
        ("http://example.org:8080/ü?ö=/", "example.org", "example.org:8080", "/%C3%BC?%C3%B6=/"),
        ("https://bücher.example/x", "xn--bcher-kva.example", "xn--bcher-kva.example", "/x"),
        ("http://8.8.8.8/", "8.8.8.8", "8.8.8.8", "/"),
        ("http://[2606:4700:0:0::1111]:8080/", "2606:4700::1111", "[2606:4700::1111]:8080", "/"),
        ("http://4shared.example/", "4shared.example", "4shared.example", "/"),
    ],
)
def test_public_url_is_taken_apart(url: str, host: str, header: str, path: str) -> None:
    target = PublicHttp().parse(url)
    assert (target.host, target.host_header, target.path) == (host, header, path)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "10.1.2.3", "::1", "::ffff:169.254.169.254", "fe80::1%1", "fd00:ec2::254"],
)
@pytest.mark.parametrize("others", [[], ["8.8.8.8"]])
def test_name_of_which_one_address_is_not_public_is_refused(address: str, others: list[str]) -> None:
    http = PublicHttp(resolver=lambda _host, _port: [*others, address])
    with pytest.raises(AddressRefused, match=r"example\.org is not a public address"):
        http.addresses(http.parse("http://example.org/"))


def test_what_the_standard_library_calls_not_global_is_not_public() -> None:
    for number in range(0, 1 << 16, 16):
        v4 = ipaddress.IPv4Address(number << 16 | 0x0101)
        assert v4.is_global or not is_public(v4), v4
        v6 = ipaddress.IPv6Address(number << 112 | 1)
        assert v6.is_global or not is_public(v6), v6


# --- over a network ---------------------------------------------------------------------------------------


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


def test_connection_goes_to_the_address_that_was_checked_when_the_answer_changes(dns: DnsServer) -> None:
    with (
        running("127.0.0.2", sends(b"public")) as site,
        running("127.0.0.1", sends(b"inside"), site.port) as canary,
    ):
        dns.answers["rebind.example"] = [["127.0.0.2"], ["127.0.0.1"]]
        http = PublicHttp(admitted=["127.0.0.2/32"], resolver=dns.resolve)
        with http.open("GET", f"http://rebind.example:{site.port}/song?x=1") as response:
            assert response.read() == b"public"
        assert dns.queries == ["rebind.example"]
        assert site.requests == [("/song?x=1", f"rebind.example:{site.port}")]
        with pytest.raises(AddressRefused), http.open("GET", f"http://rebind.example:{site.port}/"):
            pass
        assert canary.connections == 0


def test_redirect_to_a_name_whose_answer_changed_is_refused(dns: DnsServer) -> None:
    def redirect(handler: http.server.BaseHTTPRequestHandler) -> None:
        sends(b"", 302, Location="/again")(handler)

    with running("127.0.0.2", redirect) as site, running("127.0.0.1", sends(b"inside"), site.port) as canary:
        dns.answers["rebind.example"] = [["127.0.0.2"], ["127.0.0.1"]]
        http = PublicHttp(admitted=["127.0.0.2/32"], resolver=dns.resolve)
        with (
            pytest.raises(AddressRefused, match="not a public address"),
            http.open("GET", f"http://rebind.example:{site.port}/", redirects=5),
        ):
            pass
        assert (site.connections, canary.connections) == (1, 0)


@pytest.mark.parametrize(
    "location",
    [
        *("http://127.0.0.1:{port}/", "//127.0.0.1:{port}/", "http://2130706433:{port}/", "http://[::1]:{port}/"),
        *("http://user@127.0.0.2/", "file:///etc/passwd", "http://[", "http://169.254.169.254/latest/"),
    ],
)
def test_redirect_to_a_refused_url_is_refused(location: str) -> None:
    with running("127.0.0.1", sends(b"inside")) as canary:
        answer = sends(b"", 307, Location=location.format(port=canary.port))
        with (
            running("127.0.0.2", answer) as site,
            pytest.raises(AddressRefused),
            PublicHttp(admitted=["127.0.0.2"]).open("GET", f"http://127.0.0.2:{site.port}/", redirects=5),
        ):
            pass
        assert canary.connections == 0


def test_redirects_are_followed_as_far_as_allowed_and_no_further() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        left = int(handler.path[1:])
        sends(b"end")(handler) if left == 0 else sends(b"", 301, Location=f"/{left - 1}")(handler)

    http = PublicHttp(admitted=["127.0.0.0/8"])
    with running("127.0.0.1", answer) as site:
        with http.open("GET", f"http://127.0.0.1:{site.port}/3", redirects=3) as response:
            assert response.read() == b"end"
        with http.open("GET", f"http://127.0.0.1:{site.port}/3", redirects=2) as response:
            assert response.status == 301
        with http.open("POST", f"http://127.0.0.1:{site.port}/3", body=b"x") as response:
            assert response.status == 301


def test_second_address_is_tried_if_the_first_refuses_the_connection() -> None:
    with running("127.0.0.2", sends(b"here")) as site:
        http = PublicHttp(admitted=["two.example"], resolver=lambda _host, _port: ["127.0.0.3", "127.0.0.2"])
        with http.open("GET", f"http://two.example:{site.port}/") as response:
            assert response.read() == b"here"


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server with a certificate for this name, and of a client that trusts it."""
    file, key = folder / "certificate.pem", folder / "key.pem"
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    openssl += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(file)]
    subprocess.run(openssl, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file, key)
    return server, ssl.create_default_context(cafile=str(file))


def test_certificate_and_sni_are_those_of_the_name(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "good.example")
    asked: list[str] = []
    server.sni_callback = lambda _socket, name, _context: asked.append(name)
    with running("127.0.0.2", sends(b"secret"), tls=server) as site:
        http = PublicHttp(["good.example", "other.example"], lambda _host, _port: ["127.0.0.2"], client)
        with http.open("GET", f"https://good.example:{site.port}/") as response:
            assert response.read() == b"secret"
        with (
            pytest.raises(RequestFailed, match=r"certificate of other\.example is not trusted") as failed,
            http.open("GET", f"https://other.example:{site.port}/"),
        ):
            pass
        assert not failed.value.retryable
        assert asked == ["good.example", "other.example"]
        assert len(site.requests) == 1


def test_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    server, client = certificate(tmp_path, "good.example")
    with running("127.0.0.2", sends(b"", 302, Location="http://8.8.8.8/"), tls=server) as site:
        http = PublicHttp(["good.example"], lambda _host, _port: ["127.0.0.2"], client)
        with (
            pytest.raises(AddressRefused, match="redirects from https to http"),
            http.open("GET", f"https://good.example:{site.port}/", redirects=1),
        ):
            pass


@pytest.mark.parametrize("part", ["headers", "body"])
def test_server_that_sends_a_byte_now_and_then_is_dropped_at_the_deadline(part: str) -> None:
    ended = threading.Event()

    def drip(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"X-Slow: " if part == "headers" else b"\r\n"))
        while not ended.wait(0.02):  # the client reads far more than it gets in a test's time
            try:
                handler.wfile.write(b"x")
            except OSError:
                return

    http = PublicHttp(admitted=["127.0.0.1"])
    start = time.monotonic()
    with running("127.0.0.1", drip) as site:
        try:
            with (
                pytest.raises(RequestFailed, match=r"did not finish within 0\.3 seconds"),
                http.open("GET", f"http://127.0.0.1:{site.port}/", deadline=0.3) as response,
            ):
                response.read()
        finally:
            ended.set()
    assert time.monotonic() - start < 10


def test_body_that_breaks_off_is_an_error_that_names_the_host_alone() -> None:
    def short(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive.")

    with (
        running("127.0.0.1", short) as site,
        pytest.raises(RequestFailed, match=r"127\.0\.0\.1 failed or broke off") as failed,
        PublicHttp(admitted=["127.0.0.1"]).open("GET", f"http://127.0.0.1:{site.port}/?token=secret") as response,
    ):
        response.read()
    assert failed.value.retryable
    assert "secret" not in str(failed.value)


def test_server_that_is_not_there_is_an_error_that_may_be_retried(dns: DnsServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free_port = free.getsockname()[1]
        url = f"http://127.0.0.1:{free_port}/"
        with pytest.raises(RequestFailed) as failed, PublicHttp(admitted=["127.0.0.1"]).open("GET", url):
            pass
    assert failed.value.retryable
    assert f"127.0.0.1 refuses connections to port {free_port}." in str(failed.value)
    http = PublicHttp(resolver=dns.resolve)
    with pytest.raises(RequestFailed, match=r"nowhere\.example cannot be resolved"):
        http.addresses(http.parse("http://nowhere.example/"))

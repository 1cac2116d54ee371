"""HTTP requests to URLs that clients name: only to public addresses, so that no client reaches internal services.

A name is resolved once; every address is checked, and the connection goes to one of those that were checked, while
`Host`, SNI and the certificate's name remain the URL's. Each redirect is checked in the same way. The proxies of
the environment are not used: they would resolve the name again.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from types import TracebackType
from typing import TypeAlias
from urllib.parse import quote, urljoin, urlsplit

from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from shared.errors import ServiceError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver: TypeAlias = Callable[[str, int], Sequence[str]]

PORTS = {"http": 80, "https": 443}
PUBLIC_PORTS = frozenset({80, 443, 8080, 8443})  # no port of SMTP, SSH or a database
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_URL_CHARACTERS = 2000
CONNECT_SECONDS = 10.0

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a last label that makes resolvers read the name as an IPv4 address
_NOT_IN_PATHS = re.compile(r"[\x00-\x20\x7f\\]")

# IANA's special-purpose registries, and multicast, reserved and metadata addresses.
_NOT_PUBLIC_IPV4 = [
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's metadata and DNS, reachable only from inside although it looks public
    )
]
# Everything outside of global unicast is not public, among it IPv4-mapped (::ffff:0:0/96), IPv4-compatible and
# NAT64 (64:ff9b::/96) addresses, unique local ones (fc00::/7), link-local ones and multicast.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_IPV6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, among them Teredo, which contains an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4, which contains an IPv4 address
        "3fff::/20",
    )
]


class AddressRefused(ServiceError):  # noqa: N818 - reads better where it is raised
    """The URL is not one that the service requests."""

    code = "address_refused"


class RequestFailed(ServiceError):  # noqa: N818
    """The server could not be reached, or did not answer in time. `retryable` depends on the cause."""

    code = "request_failed"

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable  # type: ignore[misc]


@dataclass(frozen=True)
class Target:
    """The parts of a URL that a connection needs.

    Attributes:
        host: lower case, ASCII, without brackets.
        path: with the query, percent-encoded.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        """Return the value of the `Host` header."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == PORTS[self.scheme] else f"{name}:{self.port}"


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name as the operating system resolves it.

    Raises:
        OSError: there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class PublicHttp:
    """Sends requests to public addresses, and to those that the operator admits.

    Attributes:
        admitted: networks and host names beyond the public ones, as in MT3_ALLOWED_NETWORKS; any port is admitted
            there.
        resolver: returns the addresses of a name, or raises OSError.
        tls: how certificates are verified; by default, as the system does.
    """

    admitted: Collection[str] = ()
    resolver: Resolver = resolve
    tls: ssl.SSLContext | None = None

    def parse(self, url: str) -> Target:
        """Return the parts of a URL; check everything that can be checked without resolving its name.

        Raises:
            AddressRefused
        """
        target = _split(url)
        address = _literal(target.host)
        if address is not None:
            self._check(target, [address])
        elif target.host not in self.admitted and not self._networks():
            _check_port(target)
        return target

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = 30.0,
        deadline: float = 60.0,
        redirects: int = 0,
    ) -> Iterator[BaseHTTPResponse]:
        """Send a request, and close the connection at the end.

        Args:
            headers: sent to the host of the URL and to those of redirects.
            timeout: seconds without a byte after which the connection is dropped.
            deadline: seconds until the connection is dropped whatever comes, including the time to read the body.
            redirects: how many to follow; the next one is returned as it is. They never leave https.

        Yields:
            The response, whatever its status, with its body unread.

        Raises:
            AddressRefused: the URL, or that of a redirect, is refused.
            RequestFailed: no address of the host answers, or the connection broke off, even in the body.
        """
        target = self.parse(url)
        with _Hops(deadline) as hops:
            while True:
                try:
                    self._connect(target, timeout, hops)
                    response = hops.send(target, method, headers or {}, body)
                    location = response.headers.get("Location")
                    if response.status not in REDIRECTS or location is None or redirects == 0:
                        yield response
                        hops.check()
                        return
                except (HTTPError, HTTPException) as error:
                    hops.check()
                    raise _failed(target, error) from error
                redirects -= 1
                target = self._next(target, location)

    def addresses(self, target: Target) -> list[str]:
        """Return the addresses of a host, in order, all of them checked.

        Raises:
            AddressRefused: one of them is not public.
            RequestFailed: the name cannot be resolved.
        """
        literal = _literal(target.host)
        if literal is not None:
            found = [literal]
        else:
            try:
                found = [ipaddress.ip_address(address) for address in self.resolver(target.host, target.port)]
            except (OSError, ValueError, UnicodeError):
                found = []
        if not found:
            raise RequestFailed(f"The name {target.host} cannot be resolved. Check the URL.")
        self._check(target, found)
        return [str(address) for address in found]

    def _check(self, target: Target, found: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
        if target.host in self.admitted:
            return
        networks = self._networks()
        for address in found:
            if any(address in network for network in networks):
                continue
            if not is_public(address):
                raise AddressRefused(
                    f"{target.host} is not a public address. Use a URL that is reachable from the internet."
                )
            _check_port(target)

    def _networks(self) -> list[Network]:
        networks = []
        for entry in self.admitted:
            with suppress(ValueError):
                networks.append(ipaddress.ip_network(entry))
        return networks

    def _connect(self, target: Target, timeout: float, hops: _Hops) -> None:
        """Connect to the first address that accepts a connection."""
        cause: Exception | None = None
        for address in self.addresses(target):
            hops.check()
            connection = self._connection(target, address, min(timeout, CONNECT_SECONDS))
            hops.watch(connection)
            try:
                hops.connect()
                connection.timeout = timeout
                return
            except (HTTPError, OSError) as error:
                cause = error
                if _certificate_error(error):
                    break
        raise _failed(target, cause) from cause

    def _connection(self, target: Target, address: str, timeout: float) -> HTTPConnection:
        if target.scheme == "http":
            return HTTPConnection(address, target.port, timeout=timeout)
        return HTTPSConnection(
            address,
            target.port,
            timeout=timeout,
            ssl_context=self.tls or _system_tls(),
            server_hostname=target.host,
        )

    def _next(self, target: Target, location: str) -> Target:
        try:
            following = self.parse(urljoin(target.url, location))
        except ValueError:
            raise AddressRefused(f"{target.host} redirects to an invalid URL.") from None
        if target.scheme == "https" and following.scheme != "https":
            raise AddressRefused(f"{target.host} redirects from https to {following.scheme}.")
        return following


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return True if an address is one of the public internet, and does not contain another address."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_IPV4)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_PUBLIC_IPV6)


class _Hops:
    """The connections of one request, of which the last one is open, until a deadline."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._connection: HTTPConnection | None = None
        self._response: BaseHTTPResponse | None = None
        self._socket: socket.socket | None = None  # the connection gives it away with the response
        self._has_expired = False
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> _Hops:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._close()

    def watch(self, connection: HTTPConnection) -> None:
        """Close the connection before, and make this one the current one."""
        self._close()
        self._connection = connection

    def connect(self) -> None:
        """Connect to the address of the current connection."""
        assert self._connection is not None
        self._connection.connect()
        self._socket = self._connection.sock
        self.check()  # after this point, the deadline closes the socket

    def send(
        self, target: Target, method: str, headers: Mapping[str, str], body: bytes | None
    ) -> BaseHTTPResponse:
        """Send the request, and read the headers of the response."""
        connection = self._connection
        assert connection is not None
        own = {"Host": target.host_header, "User-Agent": "mt3-infer", "Accept-Encoding": "identity"}
        try:
            connection.request(
                method,
                target.path,
                body=body,
                headers={**own, "Connection": "close", **headers},
                preload_content=False,
                decode_content=False,
            )
            self._response = connection.getresponse()
        except OSError as error:  # urllib3 wraps it only in its pools
            raise ProtocolError(str(error), error) from error
        return self._response

    def check(self) -> None:
        """Raise if the deadline has passed: a body that has ended may have been cut off.

        Raises:
            RequestFailed
        """
        if self._has_expired:
            raise RequestFailed(f"The server did not finish within {self._seconds:g} seconds. Try again later.")

    def _expire(self) -> None:
        self._has_expired = True
        if (connected := self._socket) is not None:
            with suppress(OSError):  # closed already
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # of the connection below TLS

    def _close(self) -> None:
        self._socket = None
        response, self._response = self._response, None
        connection, self._connection = self._connection, None
        if response is not None:
            response.close()
        if connection is not None:
            connection.close()


def _split(url: str) -> Target:
    """Return the parts of a URL that names a host plainly.

    Raises:
        AddressRefused
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise AddressRefused(f"The URL is longer than {MAX_URL_CHARACTERS} characters.")
    if _NOT_IN_PATHS.search(url):
        raise AddressRefused("The URL contains spaces, control characters or backslashes. Percent-encode them.")
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
    except ValueError:
        raise AddressRefused("The URL is invalid. Check its host and port.") from None
    if scheme not in PORTS or not parts.hostname:
        raise AddressRefused("The URL must begin with https:// or http:// and name a host.")
    if "@" in parts.netloc:
        raise AddressRefused("The URL must not contain a user name or a password.")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    if parts.query:
        path += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?")
    host = _host(parts.hostname, is_ipv6="[" in parts.netloc)
    return Target(url, scheme, host, PORTS[scheme] if port is None else port, path)


def _host(host: str, *, is_ipv6: bool) -> str:
    """Return a host name in ASCII, or an IP address in its one canonical form.

    Raises:
        AddressRefused: it is neither; resolvers read 127.1, 0x7f.1, 017700000001 and 2130706433 as addresses, too.
    """
    if is_ipv6:
        try:
            address = ipaddress.IPv6Address(host)
        except ValueError:
            address = None
        if address is None or address.scope_id is not None:
            raise AddressRefused("The URL's host is not a valid IPv6 address.")
        return str(address)
    try:
        name = host.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        name = ""
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise AddressRefused("The URL's host is not a valid name.")
    if _NUMBER.fullmatch(name.rpartition(".")[2]) and _literal(name) is None:
        raise AddressRefused("The URL's host is a number. Write IPv4 addresses as four decimal numbers.")
    return name


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_port(target: Target) -> None:
    if target.port not in PUBLIC_PORTS:
        ports = ", ".join(str(port) for port in sorted(PUBLIC_PORTS))
        raise AddressRefused(f"Port {target.port} is not allowed in URLs. Allowed ports: {ports}.")


def _failed(target: Target, error: BaseException | None) -> RequestFailed:
    """Return a sentence for a broken connection; it names the host only, for a URL may contain a secret."""
    if certificate := _certificate_error(error):
        return RequestFailed(
            f"The certificate of {target.host} is not trusted ({certificate.verify_message}).", retryable=False
        )
    if any(isinstance(link, ConnectionRefusedError) for link in _chain(error)):  # urllib3 takes it for a timeout
        return RequestFailed(f"{target.host} refuses connections to port {target.port}. Try again later.")
    if any(isinstance(link, TimeoutError | Urllib3TimeoutError) for link in _chain(error)):
        return RequestFailed(f"{target.host} does not answer in time. Try again later.")
    return RequestFailed(f"The connection to {target.host} failed or broke off. Try again later.")


@cache
def _system_tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reading the certificates takes a while


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    return next((link for link in _chain(error) if isinstance(link, ssl.SSLCertVerificationError)), None)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those it wraps: as its cause, or as urllib3 does, among its arguments."""
    waiting = [error]
    seen: list[BaseException] = []
    while waiting:
        link = waiting.pop()
        if link is not None and link not in seen:
            seen.append(link)
            yield link
            waiting += [link.__cause__, *(part for part in link.args if isinstance(part, BaseException))]

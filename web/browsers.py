"""Keeps pages of other sites from using a visitor's browser against this service.

Two ways lead here: a request across sites, and a name of the attacker's own that resolves to our address (DNS
rebinding), which makes that page one of the same site. There is no built-in authentication: every client that
reaches the service may use it, so a browser inside the network is all that an attacker lacks.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from flask import Request, Response

from shared.config import Settings
from web.errors import problem

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PROBES = ("/livez", "/readyz")  # asked by addresses and names of orchestrators; they reveal nothing
DEFAULT_PORTS = {"http": "80", "https": "443"}
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?")  # RFC 3986, of a server's name


def refuse_foreign(request: Request, settings: Settings) -> Response | None:
    """Return a problem for a request under a name that is not ours, or sent by a page of another site."""
    host = request.headers.get("Host", "")
    if request.path not in PROBES and not is_ours(host, settings.allowed_hosts, request.environ["SERVER_NAME"]):
        text = f"This service does not answer to the host name {host[:255]!r}: add it to MT3_ALLOWED_HOSTS."
        return problem(421, "host_not_allowed", text)
    if request.method not in SAFE_METHODS and is_cross_site(request):
        return problem(403, "cross_site", "Requests from pages of other sites are refused.")
    return None


def is_ours(host: str, allowed: frozenset[str], listens_on: str) -> bool:
    """Return True if the service answers to a `Host` header.

    Args:
        allowed: names from MT3_ALLOWED_HOSTS. Without any, a service that listens on a loopback address answers to
            loopback names, and any other one to what no attacker can register: addresses, names without a dot and
            the machine's own name.
        listens_on: the address of the server.
    """
    match = HOST.fullmatch(host.lower())
    if match is None:
        return False
    name = match[1].strip("[]").removesuffix(".")
    if _is_loopback(name) or "*" in allowed or name in allowed:
        return True
    if any(pattern.startswith(".") and name.endswith(pattern) for pattern in allowed):
        return True
    if allowed or _is_loopback(listens_on):
        return False
    own = socket.gethostname().lower()
    return "." not in name or _address(name) is not None or name in (own, f"{own}.local")


def is_cross_site(request: Request) -> bool:
    """Return True if a browser says that a page of another origin sent the request.

    Browsers leave `Sec-Fetch-Site` out over plain HTTP, except to loopback, and send `Origin` with unsafe methods.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site.strip().lower() not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is not None and not is_same_host(origin, request.headers.get("Host", ""))


def is_same_host(origin: str, host: str) -> bool:
    """Compare an `Origin` with a `Host`. A proxy may have ended TLS, so the scheme counts only for the port."""
    try:
        parts = urlsplit(origin.strip().lower())
        ours = HOST.fullmatch(host.lower())
    except ValueError:
        return False
    theirs = HOST.fullmatch(parts.netloc)
    if theirs is None or ours is None or parts.scheme not in DEFAULT_PORTS:
        return False
    default = DEFAULT_PORTS[parts.scheme]
    return theirs[1] == ours[1] and (theirs[2] or default) == (ours[2] or default)


def _is_loopback(name: str) -> bool:
    address = _address(name)
    if address is not None:
        return address.is_loopback
    return name == "localhost" or name.endswith(".localhost")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None

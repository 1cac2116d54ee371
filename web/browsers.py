"""Protection against pages of other sites that use a visitor's browser to reach this service.

There are two attacks: cross-site requests, and DNS rebinding, where a name of the attacker's resolves to the
address of this service and makes the attacker's page same-site. Without keys (MT3_AUTH=none), every client that
reaches the service may use it, so a browser inside the network is all that an attacker needs. With keys, it is a
browser that is logged in.
"""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

from flask import Request, Response

from shared.config import Settings
from shared.exposure import is_loopback, parse_address
from web import cors
from web.errors import problem

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PROBES = ("/livez", "/readyz", "/metrics")  # requested by address or internal name; they reveal no content
DEFAULT_PORTS = {"http": "80", "https": "443"}
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?")  # the host names of RFC 3986, with a port


def refuse_foreign(request: Request, settings: Settings) -> Response | None:
    """Return a problem for a request under a foreign host name or from a page of another site."""
    host = request.headers.get("Host", "")
    if request.path not in PROBES and not is_served(host, settings.allowed_hosts, request.environ["SERVER_NAME"]):
        text = f"The host name {host[:255]!r} is not allowed. Add it to MT3_ALLOWED_HOSTS."
        return problem(421, "host_not_allowed", text)
    is_unsafe = request.method not in SAFE_METHODS
    if is_unsafe and is_cross_site(request) and not cors.is_allowed(request, settings):
        return problem(
            403,
            "cross_site",
            "Cross-site requests are not allowed. Send the request from this service's own pages.",
        )
    return None


def is_served(host: str, allowed: frozenset[str], listens_on: str) -> bool:
    """Return True if the service accepts a `Host` header.

    Args:
        allowed: names from MT3_ALLOWED_HOSTS. If it is empty, a service that listens on a loopback address accepts
            loopback names; any other one accepts names that no attacker can register: addresses, names without a
            dot and the machine's own name.
        listens_on: the address of the server.
    """
    match = HOST.fullmatch(host.lower())
    if match is None:
        return False
    name = match[1].strip("[]").removesuffix(".")
    if is_loopback(name) or "*" in allowed or name in allowed:
        return True
    if any(pattern.startswith(".") and name.endswith(pattern) for pattern in allowed):
        return True
    if allowed or is_loopback(listens_on):
        return False
    own = socket.gethostname().lower()
    return "." not in name or parse_address(name) is not None or name in (own, f"{own}.local")


def is_cross_site(request: Request) -> bool:
    """Return True if a browser sent the request on behalf of a page of another origin.

    Browsers omit `Sec-Fetch-Site` over plain HTTP, except to loopback, and send `Origin` with unsafe methods.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site.strip().lower() not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is not None and not is_same_host(origin, request.headers.get("Host", ""))


def is_from_own_page(request: Request) -> bool:
    """Return True if a browser says that a page of this origin sent the request; False if nothing says so."""
    says_so = "Sec-Fetch-Site" in request.headers or "Origin" in request.headers
    is_typed = request.headers.get("Sec-Fetch-Site", "").strip().lower() == "none"
    return says_so and not is_typed and not is_cross_site(request)


def is_same_host(origin: str, host: str) -> bool:
    """Compare an `Origin` with a `Host`. A proxy may terminate TLS, so the scheme only gives the default port."""
    try:
        url = urlsplit(origin.strip().lower())
        served = HOST.fullmatch(host.lower())
    except ValueError:
        return False
    page = HOST.fullmatch(url.netloc)
    if page is None or served is None or url.scheme not in DEFAULT_PORTS:
        return False
    default = DEFAULT_PORTS[url.scheme]
    return page[1] == served[1] and (page[2] or default) == (served[2] or default)

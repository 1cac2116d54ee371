"""Protection against opening the service to a network by mistake, without keys."""

from __future__ import annotations

import ipaddress
import textwrap
from functools import lru_cache

from shared.config import Settings
from shared.errors import Exposed

WIDTH = 78


def is_loopback(host: str) -> bool:
    """Return True for an address or name that only this machine reaches."""
    address = parse_address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")


@lru_cache(1024)  # each request asks, mostly about the same few
def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an IP address; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def check_exposure(settings: Settings, host: str, *, is_accepted: bool) -> str | None:
    """Return a warning to show if the service needs no keys and listens on an address that others may reach.

    Args:
        is_accepted: the operator accepts that, with `--insecure`.

    Raises:
        Exposed: the operator does not.
    """
    if settings.auth == "keys" or is_loopback(host.strip("[]").lower()):
        return None
    if not is_accepted:
        raise Exposed(
            f"Listening on {host} would let everybody who reaches this machine use the service, "
            "which needs no keys. Set MT3_AUTH=keys and make keys with `mt3-infer keys create NAME`, or listen on "
            "127.0.0.1, or pass --insecure if a firewall or a proxy keeps others out."
        )
    text = (
        f"WARNING: NO KEYS ARE NEEDED. Everybody who reaches {host} can upload recordings, and see and delete "
        "those of all others. Set MT3_AUTH=keys to require keys; see docs/access.md."
    )
    lines = [f"!! {line.ljust(WIDTH)} !!" for line in textwrap.wrap(text, WIDTH)]
    rule = "!" * (WIDTH + 6)
    return "\n".join(["", rule, *lines, rule, ""])

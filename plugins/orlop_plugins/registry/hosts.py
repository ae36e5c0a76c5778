"""Where a registry is: from the host in a reference to URLs, and which hosts belong together."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import httpx

from orlopd.plugin.references import DEFAULT_HOST

_DOCKER_HUB = "registry-1.docker.io"


def is_loopback(host: str) -> bool:
    """Whether a host name (no port, brackets allowed) can only be this machine."""
    bare = host.strip("[]").rstrip(".").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def base_urls(host: str, plain_http: bool) -> Sequence[httpx.URL]:
    """The URLs to try for a reference's host, in order.

    A registry on loopback is rarely given a certificate, so there plain HTTP comes first; nobody
    else's network is involved.
    """
    address = _DOCKER_HUB if host == DEFAULT_HOST else host
    if is_loopback(httpx.URL(f"https://{address}").host):
        schemes = ("http",) if plain_http else ("http", "https")
    else:
        schemes = ("http",) if plain_http else ("https",)
    return [httpx.URL(f"{scheme}://{address}/v2/") for scheme in schemes]


def origin(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port: what credentials are bound to."""
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def may_see_credentials(realm: httpx.URL, registry: httpx.URL, trusted: Sequence[str]) -> bool:
    """Whether a registry's token server may be shown the registry's credentials.

    It may when it is on the registry's host or in the domain right above it (auth.docker.io for
    registry-1.docker.io), or the config names it: a registry must not be able to send a user's
    password wherever it likes (CVE-2020-15157). Never over plain HTTP, unless the registry itself is
    spoken to that way.
    """
    if realm.scheme != "https" and not (registry.scheme == "http" and realm.scheme == "http"):
        return False
    host, own = realm.host.lower(), registry.host.lower()
    if host == own or host in {each.lower() for each in trusted}:
        return True
    domain = _domain_above(own)
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _domain_above(host: str) -> str:
    """The parent domain, or "" where it may belong to everybody (co.uk, com.au)."""
    labels = host.split(".")
    if len(labels) < 3 or labels[-1].isdigit() or ":" in host:
        return "" if len(labels) != 2 or labels[-1].isdigit() else host
    parent = labels[1:]
    if len(parent) == 2 and len(parent[0]) <= 3 and len(parent[1]) <= 3:
        return host
    return ".".join(parent)

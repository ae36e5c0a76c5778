"""Registers the types of proxy plugins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orlopd.plugin import CONTENT, DIFFER, SNAPSHOTTER, hookimpl
from orlopd.plugin.provider import Context
from orlopd.plugin.remote import Peer, Proxy

# What a proxy is made of imports gRPC, which only a daemon that has one is to pay for.


def _snapshotter(_: Context, peer: Peer) -> Any:
    from .snapshotter import ProxySnapshotter

    return ProxySnapshotter(peer)


def _content(_: Context, peer: Peer) -> Any:
    from .content import ProxyContentStore

    return ProxyContentStore(peer)


def _differ(_: Context, peer: Peer) -> Any:
    from .differ import ProxyDiffer

    return ProxyDiffer(peer)


@hookimpl
def orlop_proxies() -> Iterable[Proxy[Any]]:
    """Offer containerd's types."""
    yield Proxy("snapshot", SNAPSHOTTER, _snapshotter)
    yield Proxy("content", CONTENT, _content)
    yield Proxy("diff", DIFFER, _differ)

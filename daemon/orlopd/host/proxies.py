"""Parts that other processes serve: the sections ``[proxy_plugins.NAME]`` of the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from orlopd.config import Loaded, nearest
from orlopd.config.model import ProxyPlugin
from orlopd.plugin.provider import Context, Provider
from orlopd.plugin.remote import Peer, Proxy

from .discover import Offer


def offers(loaded: Loaded, proxies: Sequence[Proxy[Any]]) -> Iterator[Offer]:
    """What the config's sections come to.

    :param proxies: the types that plugins offer
    :raises ConfigError: a section is of another type
    """
    types = {word: proxy for proxy in reversed(proxies) for word in (*proxy.aliases, proxy.type)}
    for name, section in loaded.config.proxy_plugins.items():
        proxy = types.get(section.type)
        if proxy is None:
            known = ", ".join(sorted(types)) or "none"
            raise loaded.error(
                ("proxy_plugins", name, "type"),
                f'section [proxy_plugins.{name}]: no plugin offers the type "{section.type}"'
                f"{nearest(section.type, types)} (there are: {known})",
            )
        yield Offer(proxy.kind, _provider(name, section, proxy), f"unix://{section.path}", is_proxy=True)


def _provider(name: str, section: ProxyPlugin, proxy: Proxy[Any]) -> Provider[Any]:
    peer = Peer(name, str(section.path), tuple(section.capabilities))

    def make(context: Context) -> Any:
        return proxy.open(context, peer)

    exports: Mapping[str, str] = {**section.exports, "address": peer.address}
    return Provider(
        name,
        make,
        exports=MappingProxyType(exports),
        capabilities=peer.capabilities,
        platforms=(section.platform,) if section.platform else (),
    )

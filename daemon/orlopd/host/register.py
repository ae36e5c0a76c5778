"""The register: which parts are open and which are not, and who is meant by a kind and an id."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from orlopd.config import Config
from orlopd.core.parts import Catalog, Hooks, PartInfo, Parts, PartStatus
from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.mounting import MOUNT_HANDLER
from orlopd.plugin.processor import PROCESSOR
from orlopd.plugin.provider import CONTENT, DIFFER, RESOLVER, RUNTIME, SERVICE, SNAPSHOTTER, Kind
from orlopd.plugin.verifier import VERIFIER

from .discover import Offer

T = TypeVar("T")

_log = logging.getLogger("orlopd.host")


class HostError(Exception):
    """The daemon cannot start with these plugins. The message is one line."""


class Register:
    """The parts on offer, and what became of each.

    :param offers: one for each name
    :param broken: plugins that could not be loaded, and offers of a name that another one has
    """

    def __init__(self, config: Config, offers: Sequence[Offer], broken: Sequence[PartInfo]) -> None:
        self._config = config
        self._offers = offers
        self._broken = broken
        self._infos: dict[str, PartInfo] = {}
        self._open: dict[tuple[str, str], Any] = {}

    def opened(self, offer: Offer, part: Any) -> None:
        """Note a part that is open."""
        self._open[offer.kind.name, offer.provider.id] = part
        self._infos[offer.name] = info_of(offer, PartStatus.OK)

    def not_opened(self, offer: Offer, status: PartStatus, reason: str) -> None:
        """Note one that is not."""
        self._infos[offer.name] = info_of(offer, status, reason)

    def is_open(self, offer: Offer) -> bool:
        """Whether it is."""
        return (offer.kind.name, offer.provider.id) in self._open

    def part(self, offer: Offer) -> Any:
        """What an offer that is open gave."""
        return self._open[offer.kind.name, offer.provider.id]

    def info(self, offer: Offer) -> PartInfo:
        """What became of an offer."""
        return self._infos[offer.name]

    def check_required(self) -> None:
        """:raises HostError: a part that the config requires is not open"""
        for name in self._config.required_plugins:
            info = self._infos.get(name) or next(
                (i for i in self._infos.values() if name in [f"{i.short}.{alias}" for alias in i.aliases]),
                None,
            )
            if info is None:
                info = next(i for i in self._broken if i.name == name)
            if info.status is not PartStatus.OK:
                raise HostError(f"the required plugin {name} is {info.status.value}: {info.reason}")

    @property
    def plugins(self) -> list[PartInfo]:
        """Every part and every broken plugin, in order of kind and id."""
        return sorted((*self._infos.values(), *self._broken), key=lambda info: (info.kind, info.id))

    @property
    def offered(self) -> list[PartInfo]:
        """Every part on offer, opened or not, and every broken plugin."""
        infos = [self._infos.get(o.name) or info_of(o, PartStatus.OK) for o in self._offers]
        return sorted((*infos, *self._broken), key=lambda info: (info.kind, info.id))

    def find(self, kind: Kind[Any], id: str) -> Any:
        """An open part, by its id or an alias, or the one to use where ``id`` is empty.

        :raises FailedPrecondition: there is none
        """
        catalog = self._catalog(kind)
        wanted = id or self._default(kind, catalog)
        if catalog.get(wanted) is None:
            what = f"{kind.short}.{wanted}" if wanted else kind.short
            raise FailedPrecondition(f"{what} is required but not open", resource=f"plugin {what}")
        return catalog[wanted]

    def _default(self, kind: Kind[Any], catalog: Catalog[Any]) -> str:
        wanted = {
            CONTENT.name: self._config.content,
            SNAPSHOTTER.name: self._config.snapshotter,
            RUNTIME.name: self._config.runtime,
        }.get(kind.name, "")
        chosen = kind.short in self._config.model_fields_set
        if wanted in catalog or chosen:
            return catalog.canonical(wanted)
        return next(iter(self._own_first(kind, catalog)), wanted)

    def _own_first(self, kind: Kind[Any], ids: Iterable[str]) -> list[str]:
        """What nobody asked for by name comes from this process before it comes from another."""
        proxies = {offer.provider.id for offer in self._offers if offer.is_proxy and offer.kind == kind}
        return sorted(ids, key=lambda each: each in proxies)

    def _catalog(self, kind: Kind[Any]) -> Catalog[Any]:
        parts: dict[str, Any] = {}
        aliases: dict[str, str] = {}
        closed: dict[str, str] = {}
        for info in sorted(self._infos.values(), key=lambda info: info.id):
            if info.kind != kind.name:
                continue
            if info.status is PartStatus.OK:
                parts[info.id] = self._open[info.kind, info.id]
                aliases.update(dict.fromkeys(info.aliases, info.id))
            else:
                closed.update(dict.fromkeys((info.id, *info.aliases), info.reason))
        # An id is stronger than another part's alias.
        aliases = {alias: real for alias, real in aliases.items() if alias not in parts}
        patterns = {
            offer.provider.pattern: offer.provider.id
            for offer in self._offers
            if offer.kind is kind and offer.provider.pattern and offer.provider.id in parts
        }
        return Catalog(kind.short, parts, aliases, closed, patterns)

    def _ordered(self, kind: Kind[T], first: Sequence[str]) -> list[T]:
        catalog = self._catalog(kind)
        for name in first:
            if name not in catalog:
                _log.warning('key "%ss": %s', kind.short, catalog.absence(name))
        names = [catalog.canonical(name) for name in first if name in catalog]
        return [catalog[name] for name in dict.fromkeys((*names, *self._own_first(kind, catalog)))]

    def parts(self, hooks: Hooks) -> Parts:
        """What the core gets. :raises HostError: there is no content store"""
        content = self._catalog(CONTENT)
        chosen = self._default(CONTENT, content)
        if chosen not in content:
            reasons = [f"{i.name}: {i.reason}" for i in self.plugins if i.status is not PartStatus.OK]
            why = f" ({'; '.join(reasons[:3])})" if reasons else ""
            raise HostError(f'there is no content store "{chosen or self._config.content}"{why}')
        return Parts(
            content=content[chosen],
            snapshotters=self._catalog(SNAPSHOTTER),
            differs=self._ordered(DIFFER, self._config.differs),
            resolvers=self._ordered(RESOLVER, self._config.resolvers),
            runtimes=self._catalog(RUNTIME),
            services=list(self._catalog(SERVICE).values()),
            mount_handlers=self._catalog(MOUNT_HANDLER),
            verifiers=list(self._catalog(VERIFIER).values()),
            processors=self._catalog(PROCESSOR),
            hooks=hooks,
            plugins=self.plugins,
        )

    def default(self, kind: Kind[Any]) -> str:
        """The id of the part used where a request names none; the config's word if that is not open."""
        return self._default(kind, self._catalog(kind)) or str(getattr(self._config, kind.short, ""))


def info_of(offer: Offer, status: PartStatus, reason: str = "") -> PartInfo:
    """What is told of an offer."""
    provider = offer.provider
    return PartInfo(
        kind=offer.kind.name,
        short=offer.kind.short,
        id=provider.id,
        status=status,
        reason=reason,
        origin=offer.origin,
        requires=tuple(dict.fromkeys(requirement.kind.name for requirement in provider.requires)),
        aliases=tuple(provider.aliases),
        exports=dict(provider.exports),
        capabilities=tuple(provider.capabilities),
        platforms=tuple(provider.platforms),
    )

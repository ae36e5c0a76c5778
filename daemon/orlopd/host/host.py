"""The host: opens the parts that plugins offer and keeps the register of them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel

from orlopd.config import Config, Loaded, check_section, nearest
from orlopd.config.plugins import SectionError
from orlopd.core.parts import Catalog, PartInfo, Parts, PartStatus
from orlopd.plugin.errors import FailedPrecondition, OrlopError, Skip
from orlopd.plugin.mounting import MOUNT_HANDLER
from orlopd.plugin.processor import PROCESSOR
from orlopd.plugin.provider import (
    CONTENT,
    DIFFER,
    KINDS,
    RESOLVER,
    RUNTIME,
    SERVICE,
    SNAPSHOTTER,
    Kind,
    Provider,
)
from orlopd.plugin.verifier import VERIFIER

from .context import GuardedTasks, PartContext
from .discover import PLUGIN, Offer, Plugin, describe, discover
from .hooks import PluginHooks
from .order import arrange, candidates
from .proxies import offers

T = TypeVar("T")

SOCKET_PATH_LIMIT = 107
"""The longest path of a unix socket (unix(7): sun_path without its final zero)."""

SOCKET_ROOM = 41
"""What :attr:`orlopd.plugin.Context.state` promises to be free for a socket's name, slash included."""

_CHOICES: tuple[tuple[Kind[Any], str], ...] = (
    (CONTENT, "content"),
    (SNAPSHOTTER, "snapshotter"),
    (RUNTIME, "runtime"),
    (DIFFER, "differs"),
    (RESOLVER, "resolvers"),
)
"""The keys that choose parts, and of which kind."""

_WORDS = {CONTENT.name: "content store"}

_log = logging.getLogger("orlopd.host")


class HostError(Exception):
    """The daemon cannot start with these plugins. The message is one line."""


class Host:
    """Finds plugins when made; opens their parts as an async context manager."""

    def __init__(self, loaded: Loaded, extra: Sequence[Plugin] = (), *, installed: bool = True) -> None:
        """
        :param extra: plugins beside those that are installed, already loaded
        :param installed: whether to load those that are installed
        :raises ConfigError: a plugin's section, or a plugin's name, in the config is wrong
        """
        self._loaded = loaded
        self._config: Config = loaded.config
        found = discover(self._config.plugin_dirs, self._config.disabled_plugins, extra, installed=installed)
        self.hooks = PluginHooks(found.manager)
        self._infos: dict[str, PartInfo] = {}
        self._broken = list(found.broken)
        self._open: dict[tuple[str, str], Any] = {}
        self._offers: list[Offer] = []
        by_name: dict[str, Offer] = {}
        for offer in (*found.offers, *offers(loaded, found.proxies)):
            if offer.name in by_name:
                reason = f"{by_name[offer.name].origin} offers {offer.name} already"
                self._broken.append(_info(offer, PartStatus.FAILED, reason))
                continue
            by_name[offer.name] = offer
            self._offers.append(offer)
        self._check_names()
        self._check_choices()
        self._sections = {offer.name: self._section(offer) for offer in self._offers}

    # --- What there is -------------------------------------------------------------------------------

    @property
    def plugins(self) -> list[PartInfo]:
        """Every part and every broken plugin, in order of kind and id."""
        return sorted((*self._infos.values(), *self._broken), key=lambda info: (info.kind, info.id))

    @property
    def offered(self) -> list[PartInfo]:
        """Every part on offer, opened or not, and every broken plugin."""
        infos = [self._infos.get(o.name) or _info(o, PartStatus.OK) for o in self._offers]
        return sorted((*infos, *self._broken), key=lambda info: (info.kind, info.id))

    @property
    def sections(self) -> Mapping[str, Mapping[str, BaseModel]]:
        """The config sections of all plugins, by kind's short name and id."""
        tree: dict[str, dict[str, BaseModel]] = {}
        for offer in self._offers:
            tree.setdefault(offer.kind.short, {})[offer.provider.id] = self._sections[offer.name]
        return tree

    def default_sections(self) -> Mapping[str, Mapping[str, BaseModel]]:
        """The same with every key at its default; plugins that have keys without one are left out."""
        tree: dict[str, dict[str, BaseModel]] = {}
        for offer in self._offers:
            try:
                section = check_section(offer.provider.config, {})
            except SectionError:
                continue
            tree.setdefault(offer.kind.short, {})[offer.provider.id] = section
        return tree

    def _check_names(self) -> None:
        """Refuse names in the config that no plugin has.

        While a plugin cannot be loaded, nobody knows what it would have offered: a name that is like
        no other is a warning then.
        """
        config = self._config
        unloaded = [info for info in self._broken if info.kind == PLUGIN.name]
        known = {
            f"{offer.kind.short}.{name}"
            for offer in self._offers
            for name in (offer.provider.id, *offer.provider.aliases)
        } | {info.name for info in unloaded}
        named: list[tuple[str, tuple[str, ...]]] = [
            *((name, ("disabled_plugins",)) for name in config.disabled_plugins),
            *((name, ("required_plugins",)) for name in config.required_plugins),
            *(
                (f"{kind}.{part}", ("plugins", kind, part))
                for kind, parts in config.plugins.items()
                for part in parts
            ),
        ]
        for name, path in named:
            if name in known:
                continue
            where = f"section [{'.'.join(path)}]" if path[0] == "plugins" else f'key "{path[0]}"'
            kinds = [kind.short for kind in (*KINDS, MOUNT_HANDLER, PROCESSOR, VERIFIER, PLUGIN)]
            if name.partition(".")[0] not in kinds:
                word = name.partition(".")[0]
                message = f'{where}: unknown kind of plugin "{word}"{nearest(word, kinds)}'
                raise self._loaded.error(path, message)
            guess = nearest(name, known)
            message = f'{where}: no plugin offers "{name}"{guess}'
            if guess or not unloaded or path[0] == "required_plugins":
                raise self._loaded.error(path, message)
            _log.warning("%s (plugin %s cannot be loaded)", message, unloaded[0].id)

    def _check_choices(self) -> None:
        """Refuse a part chosen in the file that no plugin offers; as in :meth:`_check_names`."""
        unloaded = [info for info in self._broken if info.kind == PLUGIN.name]
        for kind, key in _CHOICES:
            if key not in self._config.model_fields_set:
                continue
            chosen: str | list[str] = getattr(self._config, key)
            known = [
                name
                for offer in self._offers
                if offer.kind == kind
                for name in (offer.provider.id, *offer.provider.aliases)
            ]
            for name in [chosen] if isinstance(chosen, str) else chosen:
                if name in known:
                    continue
                guess = nearest(name, known)
                message = (
                    f'key "{key}": no plugin offers a {_WORDS.get(kind.name, kind.short)} "{name}"{guess}'
                )
                if not guess and known:
                    message += f" (there are: {', '.join(sorted(known))})"
                if not unloaded or (guess and name not in [info.id for info in unloaded]):
                    raise self._loaded.error((key,), message)
                _log.warning("%s (plugin %s cannot be loaded)", message, unloaded[0].id)

    def _section(self, offer: Offer) -> BaseModel:
        path = ("plugins", offer.kind.short, offer.provider.id)
        given = self._config.plugins.get(offer.kind.short, {}).get(offer.provider.id, {})
        try:
            return check_section(offer.provider.config, given, path)
        except SectionError as error:
            raise self._loaded.error(error.path, f"section [{'.'.join(path)}]: {error.message}") from None

    # --- Opening -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Parts]:
        """Open every part; leaving closes them in reverse.

        :raises HostError: a required part did not open, or there is no content store
        """
        self._check_state_length()
        order, cycles = arrange(self._offers)
        async with AsyncExitStack() as stack:
            for offer in order:
                await self._open_one(offer, cycles.get(offer.name, ""), stack)
            self._check_required()
            yield self._parts()

    def find_offer(self, name: str, kinds: Sequence[Kind[Any]]) -> Offer:
        """The part on offer that ``name`` means: ``snapshotter.overlayfs``, or its id alone or an alias.

        :raises HostError: there is none among ``kinds``, or more than one
        """
        found = [
            offer
            for offer in self._offers
            if offer.kind in kinds and name in (offer.name, *(offer.provider.id, *offer.provider.aliases))
        ]
        if len(found) == 1:
            return found[0]
        known = sorted(offer.name for offer in (found or self._offers) if offer.kind in kinds)
        problem = "means more than one part" if found else "is no part that can be served"
        guess = (
            ""
            if found
            else nearest(name, [word for each in known for word in (each, each.partition(".")[2])])
        )
        raise HostError(f'"{name}" {problem}{guess} (there are: {", ".join(known)})')

    @asynccontextmanager
    async def open_one(self, offer: Offer) -> AsyncGenerator[Any]:
        """Open one part and what it requires.

        :raises HostError: it does not open
        """
        order, cycles = arrange(self._offers)
        wanted = {offer.name}
        for each in reversed(order):
            if each.name in wanted:
                for requirement in each.provider.requires:
                    wanted |= {other.name for other in candidates(requirement, self._offers)}
        async with AsyncExitStack() as stack:
            for each in order:
                if each.name in wanted:
                    await self._open_one(each, cycles.get(each.name, ""), stack)
            info = self._infos[offer.name]
            if info.status is not PartStatus.OK:
                raise HostError(f"{info.label} is {info.status.value}: {info.reason}")
            yield self._open[offer.kind.name, offer.provider.id]

    def _check_state_length(self) -> None:
        longest = max(
            (len(offer.kind.short) + len(offer.provider.id) + 2 for offer in self._offers), default=0
        )
        state = len(str(self._config.state).encode())
        room = SOCKET_PATH_LIMIT - SOCKET_ROOM - longest
        if state > room:
            raise HostError(
                f"the path of the state folder {self._config.state} is too long for unix sockets below it"
                f" ({state} bytes, at most {room}); choose a shorter one with --state"
            )

    async def _open_one(self, offer: Offer, cycle: str, stack: AsyncExitStack) -> None:
        try:
            if offer.name in self._config.disabled_plugins:
                raise Skip("disabled by the config")
            if cycle:
                raise FailedPrecondition(cycle)
            self._check_requirements(offer)
            part = await self._make(offer, stack)
        except Skip as skip:
            self._close_info(
                offer, PartStatus.SKIPPED, " ".join(str(skip).split()) or "does not suit this machine"
            )
        except OrlopError as error:
            self._close_info(offer, PartStatus.FAILED, error.message)
        except Exception as error:
            _log.debug("%s", offer.name, exc_info=True)
            self._close_info(offer, PartStatus.FAILED, describe(error))
        else:
            self._open[offer.kind.name, offer.provider.id] = part
            self._infos[offer.name] = _info(offer, PartStatus.OK)
            _log.debug("%s from %s is open", offer.name, offer.origin)

    def _close_info(self, offer: Offer, status: PartStatus, reason: str) -> None:
        self._infos[offer.name] = _info(offer, status, reason)

    def _check_requirements(self, offer: Offer) -> None:
        for requirement in offer.provider.requires:
            could = candidates(requirement, self._offers)
            if any((other.kind.name, other.provider.id) in self._open for other in could):
                continue
            wanted = (
                f"{requirement.kind.short}.{requirement.id}" if requirement.id else requirement.kind.short
            )
            if not could:
                raise FailedPrecondition(f"requires {wanted}, which no plugin offers")
            info = self._infos[could[0].name]
            message = f"requires {wanted}, which is {info.status.value}: {info.reason}"
            raise Skip(message) if info.status is PartStatus.SKIPPED else FailedPrecondition(message)

    async def _make(self, offer: Offer, stack: AsyncExitStack) -> Any:
        log = logging.getLogger(f"orlop.{offer.name}")
        name = offer.provider.id
        if "/" in name or name in ("", ".", ".."):
            raise FailedPrecondition(f"{name!r} cannot be a plugin's id")
        folder = Path(offer.kind.short, name)
        async with AsyncExitStack() as undo:
            tasks = await undo.enter_async_context(GuardedTasks(log))
            undo.callback(tasks.cancel_scope.cancel)
            context = PartContext(
                self._sections[offer.name],
                _folder(self._config.root / folder, 0o700),
                _folder(self._config.state / folder, 0o711),
                log,
                tasks,
                self._find,
            )
            if offer.provider.probe is not None:
                offer.provider.probe(context)
            part = await self._await_open(offer.provider, context)
            undo.push_async_callback(self._close, offer.name, part)
            stack.push_async_exit(undo.pop_all())
            return part

    async def _await_open(self, provider: Provider[Any], context: PartContext) -> Any:
        seconds = self._config.start_timeout
        with anyio.move_on_after(seconds) as scope:
            part = provider.open(context)
            if inspect.isawaitable(part):
                part = await part
            return part
        if scope.cancelled_caught:
            raise FailedPrecondition(f"did not open within {seconds:g} seconds")
        return None

    async def _close(self, name: str, part: Any) -> None:
        close = getattr(part, "aclose", None)
        if close is None:
            return
        seconds = max(self._config.shutdown_timeout, 0.1)
        with anyio.move_on_after(seconds, shield=True) as scope:
            try:
                await close()
            except Exception:
                _log.exception("%s did not close well", name)
        if scope.cancelled_caught:
            _log.warning("%s did not close within %g seconds", name, seconds)

    def _check_required(self) -> None:
        for name in self._config.required_plugins:
            info = self._infos.get(name) or next(
                (i for i in self._infos.values() if name in [f"{i.short}.{alias}" for alias in i.aliases]),
                None,
            )
            if info is None:
                info = next(i for i in self._broken if i.name == name)
            if info.status is not PartStatus.OK:
                raise HostError(f"the required plugin {name} is {info.status.value}: {info.reason}")

    # --- Looking up ----------------------------------------------------------------------------------

    def _find(self, kind: Kind[Any], id: str) -> Any:
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

    def _parts(self) -> Parts:
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
            hooks=self.hooks,
            plugins=self.plugins,
        )

    def default(self, kind: Kind[Any]) -> str:
        """The id of the part used where a request names none; the config's word if that is not open."""
        return self._default(kind, self._catalog(kind)) or str(getattr(self._config, kind.short, ""))


def _info(offer: Offer, status: PartStatus, reason: str = "") -> PartInfo:
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


def _folder(path: Path, mode: int) -> Path:
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)
    return path

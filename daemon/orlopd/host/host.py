"""The host: opens the parts that plugins offer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from pydantic import BaseModel

from orlopd.config import Config, Loaded, check_section, nearest
from orlopd.config.plugins import SectionError
from orlopd.core.parts import PartInfo, Parts, PartStatus
from orlopd.plugin.errors import FailedPrecondition, OrlopError, Skip
from orlopd.plugin.provider import Kind, Provider

from .context import GuardedTasks, PartContext
from .discover import Offer, Plugin, describe, discover
from .hooks import PluginHooks
from .named import check_choices, check_names
from .order import arrange, candidates
from .proxies import offers
from .register import HostError, Register, info_of

SOCKET_PATH_LIMIT = 107
"""The longest path of a unix socket (unix(7): sun_path without its final zero)."""

SOCKET_ROOM = 41
"""What :attr:`orlopd.plugin.Context.state` promises to be free for a socket's name, slash included."""

_log = logging.getLogger("orlopd.host")


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
        broken = list(found.broken)
        self._offers: list[Offer] = []
        by_name: dict[str, Offer] = {}
        for offer in (*found.offers, *offers(loaded, found.proxies)):
            if offer.name in by_name:
                reason = f"{by_name[offer.name].origin} offers {offer.name} already"
                broken.append(info_of(offer, PartStatus.FAILED, reason))
                continue
            by_name[offer.name] = offer
            self._offers.append(offer)
        check_names(loaded, self._offers, broken)
        check_choices(loaded, self._offers, broken)
        self._register = Register(self._config, self._offers, broken)
        self._sections = {offer.name: self._section(offer) for offer in self._offers}

    # --- What there is -------------------------------------------------------------------------------

    @property
    def plugins(self) -> list[PartInfo]:
        """Every part and every broken plugin, in order of kind and id."""
        return self._register.plugins

    @property
    def offered(self) -> list[PartInfo]:
        """Every part on offer, opened or not, and every broken plugin."""
        return self._register.offered

    def default(self, kind: Kind[Any]) -> str:
        """The id of the part used where a request names none; the config's word if that is not open."""
        return self._register.default(kind)

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
            self._register.check_required()
            yield self._register.parts(self.hooks)

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
            info = self._register.info(offer)
            if info.status is not PartStatus.OK:
                raise HostError(f"{info.label} is {info.status.value}: {info.reason}")
            yield self._register.part(offer)

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
            reason = " ".join(str(skip).split()) or "does not suit this machine"
            self._register.not_opened(offer, PartStatus.SKIPPED, reason)
        except OrlopError as error:
            self._register.not_opened(offer, PartStatus.FAILED, error.message)
        except Exception as error:
            _log.debug("%s", offer.name, exc_info=True)
            self._register.not_opened(offer, PartStatus.FAILED, describe(error))
        else:
            self._register.opened(offer, part)
            _log.debug("%s from %s is open", offer.name, offer.origin)

    def _check_requirements(self, offer: Offer) -> None:
        for requirement in offer.provider.requires:
            could = candidates(requirement, self._offers)
            if any(self._register.is_open(other) for other in could):
                continue
            wanted = (
                f"{requirement.kind.short}.{requirement.id}" if requirement.id else requirement.kind.short
            )
            if not could:
                raise FailedPrecondition(f"requires {wanted}, which no plugin offers")
            info = self._register.info(could[0])
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
                self._register.find,
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


def _folder(path: Path, mode: int) -> Path:
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)
    path.chmod(mode)
    return path

"""Finding plugins: entry points of installed distributions, and drop-in files.

A plugin that cannot be imported, or that breaks when asked what it offers, becomes an entry in the
report; the others go on.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from orlopd.config import nearest
from orlopd.core.parts import PartInfo, PartStatus
from orlopd.plugin import hooks as hookspecs
from orlopd.plugin.mounting import MOUNT_HANDLER
from orlopd.plugin.processor import PROCESSOR
from orlopd.plugin.provider import CONTENT, DIFFER, RESOLVER, RUNTIME, SERVICE, SNAPSHOTTER, Kind, Provider
from orlopd.plugin.remote import Proxy
from orlopd.plugin.verifier import VERIFIER

GROUP = "orlop.plugins"

PLUGIN = Kind[object]("dev.orlop.plugin.v1", "plugin")
"""The kind under which a plugin is reported that never came to offer a part."""

PROVIDER_HOOKS: tuple[tuple[str, Kind[Any]], ...] = (
    ("orlop_content_stores", CONTENT),
    ("orlop_snapshotters", SNAPSHOTTER),
    ("orlop_differs", DIFFER),
    ("orlop_processors", PROCESSOR),
    ("orlop_resolvers", RESOLVER),
    ("orlop_runtimes", RUNTIME),
    ("orlop_services", SERVICE),
    ("orlop_verifiers", VERIFIER),
    ("orlop_mount_handlers", MOUNT_HANDLER),
)

PROXY_HOOK = "orlop_proxies"

_log = logging.getLogger("orlopd.host")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin: its name, the object that carries its hooks and where it came from."""

    name: str
    hooks: object
    origin: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A part that a plugin offers."""

    kind: Kind[Any]
    provider: Provider[Any]
    origin: str
    is_proxy: bool = False
    """Whether it is another process that the config names, which stands behind what is here."""

    @property
    def name(self) -> str:
        """``snapshotter.overlayfs``"""
        return f"{self.kind.short}.{self.provider.id}"


@dataclass(frozen=True, slots=True)
class Found:
    """What discovery came back with. ``proxies`` are types of parts that other processes may serve,
    ``broken`` the plugins that offer nothing, and why."""

    manager: pluggy.PluginManager
    offers: Sequence[Offer]
    proxies: Sequence[Proxy[Any]]
    broken: Sequence[PartInfo]


def describe(error: BaseException) -> str:
    """An exception in one line, for a report."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if isinstance(error, (ImportError, _RefusedError)) and text:
        return text
    return f"{kind}: {text}" if text else kind


def discover(
    folders: Sequence[Path],
    disabled: Sequence[str] = (),
    extra: Sequence[Plugin] = (),
    *,
    installed: bool = True,
) -> Found:
    """Load every plugin and ask each what it offers.

    :param folders: where drop-in files lie; those that do not exist are passed over
    :param disabled: names "plugin.NAME" of plugins not to load at all
    :param extra: plugins that are loaded already
    :param installed: whether to look at installed distributions at all
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    broken: list[PartInfo] = []
    plugins: list[Plugin] = list(extra)
    for name, origin, load in (*(_entry_points() if installed else ()), *_files(folders)):
        if f"{PLUGIN.short}.{name}" in disabled:
            broken.append(_report(name, origin, "disabled by the config", PartStatus.SKIPPED))
            continue
        try:
            plugins.append(Plugin(name, load(), origin))
        except (Exception, SystemExit) as error:
            _log.debug("plugin %s from %s", name, origin, exc_info=True)
            broken.append(_report(name, origin, f"cannot be loaded: {describe(error)}"))
    offers: list[Offer] = []
    proxies: list[Proxy[Any]] = []
    for plugin in plugins:
        try:
            _register(manager, plugin)
            offers += _offers(plugin)
            proxies += _proxies(plugin)
        except Exception as error:
            _log.debug("plugin %s from %s", plugin.name, plugin.origin, exc_info=True)
            if manager.is_registered(plugin.hooks):
                manager.unregister(plugin.hooks)
            broken.append(_report(plugin.name, plugin.origin, describe(error)))
    return Found(manager, offers, proxies, broken)


def _report(name: str, origin: str, reason: str, status: PartStatus = PartStatus.FAILED) -> PartInfo:
    return PartInfo(PLUGIN.name, PLUGIN.short, name, status, reason, origin)


class _RefusedError(Exception):
    """The plugin does not keep to the hook specifications."""


def _entry_points() -> Iterator[tuple[str, str, Any]]:
    # A distribution may be on the path twice (an editable install over a wheel): the first one counts.
    seen: set[tuple[str, str]] = set()
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if (point.name, point.value) not in seen:
            seen.add((point.name, point.value))
            yield point.name, _distribution(point), point.load


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _files(folders: Sequence[Path]) -> Iterator[tuple[str, str, Any]]:
    for folder in folders:
        try:
            files = sorted(
                path for path in folder.iterdir() if path.suffix == ".py" and path.name[0] not in "._"
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            _log.warning("plugin folder %s: %s", folder, (error.strerror or str(error)).lower())
            continue
        for path in files:
            yield path.stem, str(path), lambda path=path: _load_file(path)


def _load_file(path: Path) -> ModuleType:
    name = f"orlop_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic look modules up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _register(manager: pluggy.PluginManager, plugin: Plugin) -> None:
    known = [name for name in dir(hookspecs) if name.startswith("orlop_")]
    marked = 0
    for name in dir(plugin.hooks):
        options = manager.parse_hookimpl_opts(plugin.hooks, name)  # pyright: ignore[reportArgumentType]
        if options is None:
            continue
        marked += 1
        if name not in known:
            raise _RefusedError(f'there is no hook "{name}"{nearest(name, known)}')
        if options.get("hookwrapper") or options.get("wrapper"):
            raise _RefusedError(f'hook "{name}": wrappers are not supported')
    if not marked:
        raise _RefusedError("no function in it is marked with @hookimpl")
    name = plugin.name
    while manager.has_plugin(name):
        name += "+"
    manager.register(plugin.hooks, name)


def _provided(plugin: Plugin, hook: str) -> Iterable[Any]:
    function = getattr(plugin.hooks, hook, None)
    if function is None or getattr(function, f"{hookspecs.PROJECT}_impl", None) is None:
        return ()
    provided: Iterable[Any] | None = function()
    return provided or ()


def _proxies(plugin: Plugin) -> Iterator[Proxy[Any]]:
    for proxy in _provided(plugin, PROXY_HOOK):
        if not isinstance(proxy, Proxy):
            raise _RefusedError(f"{PROXY_HOOK} gave {type(proxy).__name__}, not Proxy")
        yield proxy  # pyright: ignore[reportUnknownVariableType]


def _offers(plugin: Plugin) -> Iterator[Offer]:
    for hook, kind in PROVIDER_HOOKS:
        for provider in _provided(plugin, hook):
            if not isinstance(provider, Provider):
                raise _RefusedError(f"{hook} gave {type(provider).__name__}, not Provider")
            yield Offer(kind, provider, plugin.origin)  # pyright: ignore[reportUnknownArgumentType]

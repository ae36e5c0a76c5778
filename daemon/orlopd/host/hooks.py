"""Calling the participants: each hook's implementations one after another, awaited where they are async."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pluggy

from orlopd.core.spec_changes import SpecChange, changes
from orlopd.plugin.errors import Internal, OrlopError
from orlopd.plugin.values import Container, Descriptor, Event

from .discover import describe

_log = logging.getLogger("orlopd.host")


class PluginHooks:
    """The participants of a plugin manager; see :class:`orlopd.core.parts.Hooks`."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._adjust_spec = _implementations(manager, "orlop_adjust_spec")
        self._check_image = _implementations(manager, "orlop_check_image")
        self._event = _implementations(manager, "orlop_event")
        self._info = _implementations(manager, "orlop_info")
        self._warnings = _implementations(manager, "orlop_warnings")

    async def adjust_spec(
        self, namespace: str, container: Container, spec: dict[str, Any]
    ) -> Sequence[SpecChange]:
        found: list[SpecChange] = []
        for call in self._adjust_spec:
            before = copy.deepcopy(spec)
            await _strictly(call, {"namespace": namespace, "container": container, "spec": spec})
            found += changes(call.plugin_name, before, spec)
        return found

    async def check_image(self, namespace: str, name: str, target: Descriptor) -> None:
        for call in self._check_image:
            await _strictly(call, {"namespace": namespace, "name": name, "target": target})

    async def event(self, event: Event) -> None:
        for call in self._event:
            try:
                await _call(call, {"event": event})
            except Exception:
                _log.exception("plugin %s: orlop_event failed on %s", call.plugin_name, event.topic)

    async def info(self) -> Mapping[str, str]:
        fields: dict[str, str] = {}
        for call in self._info:
            try:
                given = await _call(call, {})
                fields.update({str(key): str(value) for key, value in (given or {}).items()})
            except Exception:
                _log.exception("plugin %s: orlop_info failed", call.plugin_name)
        return fields

    async def warnings(self) -> Sequence[str]:
        found: list[str] = []
        for call in self._warnings:
            try:
                found += map(str, await _call(call, {}) or ())
            except Exception:
                _log.exception("plugin %s: orlop_warnings failed", call.plugin_name)
        return found


def _implementations(manager: pluggy.PluginManager, hook: str) -> list[pluggy.HookImpl]:
    # pluggy keeps them in the order opposite to that in which it calls them.
    return list(reversed(getattr(manager.hook, hook).get_hookimpls()))


def _arguments(call: pluggy.HookImpl, given: Mapping[str, Any]) -> Iterator[Any]:
    for name in call.argnames:
        yield given[name]


async def _call(call: pluggy.HookImpl, given: Mapping[str, Any]) -> Any:
    result: Any = call.function(*_arguments(call, given))
    return await result if inspect.isawaitable(result) else result


async def _strictly(call: pluggy.HookImpl, given: Mapping[str, Any]) -> None:
    """Call a hook that has a say: whatever it raises stops what was under way."""
    try:
        await _call(call, given)
    except OrlopError:
        raise
    except Exception as error:
        _log.exception("plugin %s: %s failed", call.plugin_name, call.function.__name__)
        raise Internal(f"plugin {call.plugin_name} failed: {describe(error)}") from error

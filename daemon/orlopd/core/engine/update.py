"""Changing limits and the restart policy of a container that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from orlopd.core.oci import Resources
from orlopd.core.oci.resources import build_resources
from orlopd.core.scope import Scope
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.runtime import TaskState
from orlopd.plugin.values import Container, now

from .context import Context
from .find import Finder
from .policy import COUNT_LABEL, POLICY_LABEL, STATUS_LABEL, RestartPolicy, When
from .record import EXTENSION, config_of, name_of, pack_spec, spec_of, with_extension

_FIXED = ("block_limits", "huge_pages", "unified", "device_rules")
_KINDS = {
    "memory": ("memory_bytes", "memory_swap_bytes", "memory_reservation_bytes"),
    "cpu": ("nano_cpus", "cpu_shares", "cpu_quota", "cpu_period", "cpuset_cpus", "cpuset_mems"),
    "pids": ("pids",),
    "blockIO": ("block_weight",),
}
_PROCESSORS = ("nano_cpus", "cpu_quota", "cpu_period")
_ALIVE = (TaskState.CREATED, TaskState.RUNNING, TaskState.PAUSED, TaskState.PAUSING)


class Updater:
    """Changes containers, whoever made them."""

    def __init__(self, context: Context, finder: Finder) -> None:
        self._context = context
        self._finder = finder

    async def update(
        self, scope: Scope, reference: str, wanted: Resources, restart: str | None = None
    ) -> Container:
        """Change what is asked for: at once if it runs, and for every later start.

        :param wanted: limits; those that are 0 or empty stay as they are
        :param restart: a restart policy; None leaves the one there is
        :returns: the record as it is then
        :raises NotFound: there is no such container
        :raises InvalidArgument: a limit or policy makes no sense, or cannot be changed
        :raises FailedPrecondition: the runtime refused; nothing is changed then
        """
        policy = RestartPolicy.parse(restart) if restart is not None else None
        given = {name: value for name, value in _fields(wanted).items() if value}
        if fixed := [name for name in _FIXED if name in given]:
            raise InvalidArgument(
                f"{', '.join(fixed)} of a container cannot be changed", hint="make it anew with other limits"
            )
        if not given and policy is None:
            raise InvalidArgument("nothing was named that is to change")
        container = await self._finder.container(scope, reference)
        async with self._context.locks.hold(self._context.lock(scope, container.id)):
            container = await self._context.containers.get(scope, container.id)
            paths: list[str] = []
            if given:
                container = await self._limit(scope, container, given)
                paths.append("spec")
            if policy is not None:
                container = _with_policy(container, policy)
                paths += [f"labels.{label}" for label in (POLICY_LABEL, STATUS_LABEL, COUNT_LABEL)]
            if config_of(container) is not None:
                paths.append(f"extensions.{EXTENSION}")
            return await self._context.containers.update(scope, replace(container, updated_at=now()), paths)

    async def _limit(self, scope: Scope, container: Container, given: Mapping[str, Any]) -> Container:
        """Change limits of what runs; the record that says so."""
        config = config_of(container)
        before = config.spec.resources if config is not None else Resources()
        if any(name in given for name in _PROCESSORS):  # the two ways to say how much exclude each other
            before = replace(before, **dict.fromkeys(_PROCESSORS, 0))
        after = replace(before, **given)
        built = cast("dict[str, Any]", build_resources(after))
        # Of the rest a plugin may have said otherwise.
        limits = {kind: built[kind] for kind, names in _KINDS.items() if not given.keys().isdisjoint(names)}
        spec = spec_of(container)
        linux: dict[str, Any] = spec.get("linux") or {}
        changed = _merged(linux.get("resources") or {}, limits)
        task = await self._finder.task(scope, container)
        if task is not None and (await task.status()).state in _ALIVE:
            await task.update(json.dumps(limits).encode(), {})
        spec["linux"] = {**linux, "resources": changed}
        container = replace(container, spec=pack_spec(spec))
        if config is not None:
            kept = replace(config, spec=replace(config.spec, resources=after))
            container = with_extension(container, kept)
        return container


def _fields(wanted: Resources) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in Resources.__slots__}


def _merged(before: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(before)
    for kind, values in limits.items():
        merged[kind] = {**merged.get(kind, {}), **values}
    return merged


def _with_policy(container: Container, policy: RestartPolicy) -> Container:
    config = config_of(container)
    if config is not None:
        if config.spec.auto_remove and policy.when is not When.NO:
            raise InvalidArgument(
                f"container {name_of(container)} is removed when it ends, and cannot be started again then",
                reason="RESTART_AND_REMOVE",
            )
        container = with_extension(container, replace(config, spec=replace(config.spec, restart=str(policy))))
    ours = (POLICY_LABEL, STATUS_LABEL, COUNT_LABEL)
    labels = {key: value for key, value in container.labels.items() if key not in ours}
    return replace(container, labels={**labels, **policy.labels})

"""Changing limits and the restart policy of a container that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from anyio import to_thread

from orlopd.core.oci import Resources
from orlopd.core.oci.resources import build_resources
from orlopd.core.scope import Scope
from orlopd.core.shield import shielded
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.runtime import TaskState
from orlopd.plugin.values import Container, now

from .context import Context
from .find import Finder
from .policy import COUNT_LABEL, POLICY_LABEL, STATUS_LABEL, STOPPED_LABEL, RestartPolicy, When, policy_of
from .record import EXTENSION, config_of, name_of, pack_spec, spec_of, with_extension

_FIXED = ("block_limits", "huge_pages", "unified", "device_rules")
_KINDS = {
    "memory": ("memory_bytes", "memory_swap_bytes", "memory_reservation_bytes"),
    "cpu": ("nano_cpus", "cpu_shares", "cpu_quota", "cpu_period", "cpuset_cpus", "cpuset_mems"),
    "pids": ("pids",),
    "blockIO": ("block_weight",),
}
_LABELS = (POLICY_LABEL, STATUS_LABEL, COUNT_LABEL)
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
            if policy is not None:
                stopped = await self._is_stopped(scope, container)
                container = _with_policy(container, policy, stopped=stopped)
                paths += [f"labels.{label}" for label in (*_LABELS, STOPPED_LABEL)]
            if config_of(container) is not None:
                paths.append(f"extensions.{EXTENSION}")
            with shielded():  # what the runtime took is to be in the record
                if given:
                    container = await self._limit(scope, container, given)
                    paths.append("spec")
                container = replace(container, updated_at=now())
                return await self._context.containers.update(scope, container, paths)

    async def _is_stopped(self, scope: Scope, container: Container) -> bool:
        """Whether it ran and does not any more."""
        task = await self._finder.task(scope, container)
        if task is not None:
            return (await task.status()).state is TaskState.STOPPED
        life = await to_thread.run_sync(self._context.folders.life, scope.namespace, container.id)
        return life.started_at is not None

    async def _limit(self, scope: Scope, container: Container, given: Mapping[str, Any]) -> Container:
        """Change limits of what runs; the record that says so."""
        config = config_of(container)
        before = config.spec.resources if config is not None else Resources()
        spec = spec_of(container)
        linux: dict[str, Any] = spec.get("linux") or {}
        # The two ways to say how much of the processors exclude each other.
        if "nano_cpus" in given:
            before = replace(before, cpu_quota=0, cpu_period=0)
        elif "cpu_quota" in given or "cpu_period" in given:
            resources: dict[str, Any] = linux.get("resources") or {}
            cpu: dict[str, Any] = resources.get("cpu") or {}
            quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
            before = replace(before, nano_cpus=0, cpu_quota=quota, cpu_period=period)
        after = replace(before, **given)
        built = cast("dict[str, Any]", build_resources(after))
        # Of the rest a plugin may have said otherwise.
        limits = {kind: built[kind] for kind, names in _KINDS.items() if not given.keys().isdisjoint(names)}
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


def _with_policy(container: Container, policy: RestartPolicy, *, stopped: bool) -> Container:
    """
    :param stopped: it does not run. That nobody stopped it on purpose is known only of those with a policy
    """
    config = config_of(container)
    had_none = policy_of(container).when is When.NO
    if config is not None:
        if config.spec.auto_remove and policy.when is not When.NO:
            raise InvalidArgument(
                f"container {name_of(container)} is removed when it ends, and cannot be started again then",
                reason="RESTART_AND_REMOVE",
            )
        container = with_extension(container, replace(config, spec=replace(config.spec, restart=str(policy))))
    labels = {key: value for key, value in container.labels.items() if key not in _LABELS}
    if had_none and stopped and policy.when is not When.NO:
        labels[STOPPED_LABEL] = "true"
    return replace(container, labels={**labels, **policy.labels})

"""Making containers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import anyio
from anyio import to_thread

from orlopd.core.healthcheck import resolve_check
from orlopd.core.identifiers import check_identifier, check_labels
from orlopd.core.manifests import ImageConfig
from orlopd.core.oci import (
    NO_MAPS,
    BuildOptions,
    IdMaps,
    Namespace,
    Network,
    Rootfs,
    Spec,
    build_spec,
    inherited_labels,
    resolve_maps,
)
from orlopd.core.oci.image import NO_IMAGE
from orlopd.core.oci.rootfs import check_absolute
from orlopd.core.scope import Scope
from orlopd.core.signals import parse_signal
from orlopd.plugin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlopd.plugin.mount import mounted
from orlopd.plugin.values import Container, Mount

from .context import Context
from .find import Finder
from .model import ContainerSpec, SourceKind
from .names import made_up_name
from .policy import RestartPolicy, When
from .record import (
    DEFAULT_STOP_SIGNAL,
    EXTENSION,
    KEY_LABEL,
    NAME_LABEL,
    PREFIX,
    Config,
    name_of,
    pack_config,
    pack_spec,
    with_extension,
)
from .userns import mapped_root, prepare
from .volumes import Volumes

_MOST_SPEC = 4 << 20
_LONGEST_KEY = 128
_SHORT_ID = 12
_ID_BYTES = 16


def is_own_id(id: str) -> bool:
    """Whether an id can be one that was made here, and not a name that a client of another API chose."""
    return len(id) == 2 * _ID_BYTES and not set(id) - set("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class _Root:
    """A root filesystem found or made, and what its image asks for."""

    image: str = ""
    config: ImageConfig = NO_IMAGE
    snapshotter: str = ""
    mounts: tuple[Mount, ...] = ()
    path: str = ""
    maps: IdMaps = NO_MAPS


class Creator:
    """Makes containers, whole or not at all."""

    def __init__(self, context: Context, finder: Finder, volumes: Volumes) -> None:
        self._context = context
        self._volumes = volumes
        self._finder = finder
        # Names that were chosen, of containers that are not in the database yet.
        self._reserved: set[tuple[str, str]] = set()

    async def create(self, scope: Scope, spec: ContainerSpec, *, idempotency_key: str = "") -> Container:
        """Make a container without starting it.

        :raises NotFound: image, snapshotter, runtime or directory are not there
        :raises AlreadyExists: the name is taken
        :raises InvalidArgument: what was asked makes no sense
        """
        _check(spec)
        if len(idempotency_key) > _LONGEST_KEY:
            raise InvalidArgument(f"an idempotency key has up to {_LONGEST_KEY} characters")
        namespace = scope.namespace
        keys = [f"{namespace}/name/{spec.name}"] if spec.name else []
        keys += [f"{namespace}/key/{idempotency_key}"] if idempotency_key else []
        keys += self._volumes.keys(scope, spec.mounts)
        async with self._context.locks.hold(*keys):
            existing = await self._context.containers.list(scope)
            for container in existing:
                if idempotency_key and container.labels.get(KEY_LABEL) == idempotency_key:
                    return container
            taken = {name for each in existing for name in (each.id, name_of(each))}
            if spec.name in taken:
                raise AlreadyExists(
                    f"there is a container {spec.name!r} already",
                    reason="NAME_TAKEN",
                    resource=f"container {spec.name}",
                    hint=f"remove it with: orlop rm {spec.name}",
                )
            taken |= {name for within, name in self._reserved if within == namespace}
            spec = replace(spec, name=spec.name or made_up_name(taken.__contains__))
            self._reserved.add((namespace, spec.name))
            try:
                async with self._context.leases.hold(scope) as leased:
                    return await self._make(leased, secrets.token_hex(_ID_BYTES), spec, idempotency_key)
            finally:
                self._reserved.discard((namespace, spec.name))

    async def _make(self, scope: Scope, id: str, spec: ContainerSpec, key: str) -> Container:
        context = self._context
        runtime = spec.runtime or await context.default_runtime(scope)
        context.runtimes.require(runtime)
        async with AsyncExitStack() as undo:
            # First, so that a daemon that comes later finds by it what this one left half made.
            await to_thread.run_sync(context.folders.make, scope.namespace, id)
            undo.push_async_callback(_shielded_thread, context.folders.remove, scope.namespace, id)
            root = await self._root(scope, id, spec, undo)
            mounts = spec.mounts if spec.source.kind is not SourceKind.BUNDLE else ()
            mounts, made = await to_thread.run_sync(self._volumes.bound, scope, mounts, root.maps)
            for path in made:
                undo.push_async_callback(_shielded_thread, path.rmdir)
            oci = await to_thread.run_sync(self._spec, scope, id, replace(spec, mounts=mounts), root)
            stop_signal = spec.stop_signal or root.config.stop_signal or DEFAULT_STOP_SIGNAL
            health = resolve_check(spec.healthcheck, root.config.healthcheck)
            config = Config(spec, stop_signal, maps=root.maps, health=health)
            container = Container(
                id=id,
                runtime=runtime,
                image=root.image,
                snapshotter=root.snapshotter,
                snapshot_key=id if root.snapshotter else "",
                labels={
                    **inherited_labels(root.config.labels),
                    **spec.labels,
                    **RestartPolicy.parse(spec.restart).labels,
                    NAME_LABEL: spec.name,
                    **({KEY_LABEL: key} if key else {}),
                },
                extensions={EXTENSION: pack_config(config)},
            )
            if spec.source.kind is not SourceKind.BUNDLE:
                changes = await context.hooks.adjust_spec(scope.namespace, container, oci)
                if changes:
                    container = with_extension(container, replace(config, changes=tuple(changes)))
            container = await context.containers.create(scope, replace(container, spec=pack_spec(oci)))
            undo.pop_all()
            return container

    async def _root(self, scope: Scope, id: str, spec: ContainerSpec, undo: AsyncExitStack) -> _Root:
        kind, value = spec.source.kind, spec.source.value
        if kind is SourceKind.BUNDLE:
            return _Root(path=value)
        maps = await to_thread.run_sync(resolve_maps, spec.user_namespace)
        if kind is SourceKind.ROOTFS:
            path = await to_thread.run_sync(_directory, value)
            return _Root(path=path, maps=maps, mounts=(mapped_root(path, maps),) if maps else ())
        name = spec.snapshotter or await self._context.default_snapshotter(scope)
        snapshotter = self._context.snapshots.for_name(name)
        image, config, parent = "", NO_IMAGE, ""
        if kind is SourceKind.IMAGE:
            found = await self._finder.image(scope, value)
            image = found.name
            config, _, _ = await self._context.stored.image_config(scope, found.target, spec.platform)
            parent = await self._context.unpacker.unpack(
                scope, found.target, spec.platform, name, name=found.name
            )
        if maps:
            folder = self._context.folders.mounts
            mounts = await prepare(snapshotter, scope, id, parent, maps, folder)
        else:
            mounts = await snapshotter.prepare(scope, id, parent)

        async def remove() -> None:
            with anyio.CancelScope(shield=True):
                with suppress(NotFound):
                    await snapshotter.remove(scope, id)

        undo.push_async_callback(remove)
        return _Root(image, config, name, tuple(mounts), maps=maps)

    def _spec(self, scope: Scope, id: str, spec: ContainerSpec, root: _Root) -> dict[str, Any]:
        """The OCI spec. Blocks: it looks into the root filesystem."""
        if spec.source.kind is SourceKind.BUNDLE:
            return _bundle_spec(Path(spec.source.value), terminal=spec.terminal)
        if root.mounts:
            with mounted(root.mounts, folder=self._context.folders.mounts, readonly=True) as path:
                return self._build(scope, id, spec, root, path)
        return self._build(scope, id, spec, root, Path(root.path))

    def _build(self, scope: Scope, id: str, spec: ContainerSpec, root: _Root, path: Path) -> dict[str, Any]:
        hostname = spec.hostname
        if not hostname:
            hosts = spec.network is Network.HOST or spec.namespaces.uts is Namespace.HOST
            hostname = _own_hostname() if hosts else id[:_SHORT_ID]
        folders = self._context.folders
        folders.write_files(scope.namespace, id, hostname, spec.network, root.maps)
        with Rootfs.open(path) as rootfs:
            present = rootfs if spec.source.kind is SourceKind.ROOTFS else None
            options = BuildOptions(
                namespace=scope.namespace,
                id=id,
                root="rootfs" if root.mounts else root.path,
                image=root.config,
                args=spec.args,
                entrypoint=spec.entrypoint,
                env=spec.env,
                working_dir=spec.working_dir,
                user=spec.user,
                hostname=hostname,
                terminal=spec.terminal,
                mounts=spec.mounts,
                files=folders.binds(scope.namespace, id, present),
                network=spec.network,
                namespaces=spec.namespaces,
                maps=root.maps,
                resources=spec.resources,
                rlimits=spec.rlimits,
                sysctls=spec.sysctls,
                annotations=spec.annotations,
                devices=spec.devices,
                cdi_folders=self._context.cdi_folders,
                security=spec.security,
                read_only=spec.read_only,
                cap_add=spec.cap_add,
                cap_drop=spec.cap_drop,
                group_add=spec.group_add,
                shm_bytes=spec.shm_bytes,
                oom_score_adj=spec.oom_score_adj,
                hooks=spec.hooks,
            )
            built: Spec = build_spec(options, rootfs)
        return cast("dict[str, Any]", built)


def _check(spec: ContainerSpec) -> None:
    if spec.name:
        check_identifier(spec.name, "container name")
    check_labels(spec.labels, "label")
    for key in spec.labels:
        if not key or key.startswith(PREFIX):
            raise InvalidArgument(f"label {key!r} is the daemon's own", reason="RESERVED_LABEL")
    if spec.stop_signal:
        parse_signal(spec.stop_signal)
    if RestartPolicy.parse(spec.restart).when is not When.NO and spec.auto_remove:
        raise InvalidArgument(
            "a container cannot both be removed when it ends and be started again",
            reason="RESTART_AND_REMOVE",
        )
    if spec.source.kind is not SourceKind.SCRATCH and not spec.source.value:
        raise InvalidArgument(f"the container's {spec.source.kind.value} is not named")
    if spec.source.kind is SourceKind.BUNDLE:
        if not spec.source.value.startswith("/"):
            raise InvalidArgument(f"bundle {spec.source.value!r} is not an absolute path")
        if spec.user_namespace:
            raise InvalidArgument("the bundle's config.json says whose ids its container has")
        if spec.args or spec.entrypoint:
            raise InvalidArgument(
                "the bundle's config.json says what to run: args and entrypoint would have no effect",
                reason="BUNDLE_HAS_COMMAND",
            )
    elif spec.working_dir:
        check_absolute(spec.working_dir)


def _directory(value: str) -> str:
    path = Path(value)
    if not value.startswith("/"):
        raise InvalidArgument(f"root filesystem {value!r} is not an absolute path")
    if not path.is_dir():
        raise NotFound(
            f"root filesystem {value!r} is not a directory on the daemon's machine",
            reason="ROOTFS_NOT_FOUND",
            resource=f"path {value}",
        )
    return str(path.resolve())


def _bundle_spec(bundle: Path, *, terminal: bool) -> dict[str, Any]:
    path = bundle / "config.json"
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_SPEC + 1)
    except OSError as error:
        raise NotFound(
            f"bundle {str(bundle)!r}: config.json: {error.strerror}", reason="BUNDLE_NOT_FOUND"
        ) from error
    try:
        spec = json.loads(data) if len(data) <= _MOST_SPEC else None
    except (ValueError, RecursionError):
        spec = None
    if not isinstance(spec, Mapping) or not isinstance(cast("dict[str, Any]", spec).get("ociVersion"), str):
        raise InvalidArgument(f"{str(path)!r} is no OCI runtime spec", reason="MALFORMED_BUNDLE")
    found = cast("dict[str, Any]", spec)
    process = found.get("process")
    if not isinstance(process, dict):
        raise InvalidArgument(f"{str(path)!r} has no process", reason="MALFORMED_BUNDLE")
    if bool(cast("dict[str, Any]", process).get("terminal")) != terminal:
        raise FailedPrecondition(
            f"{str(path)!r} says terminal={str(not terminal).lower()}, the request says otherwise",
            reason="TERMINAL_MISMATCH",
            hint="ask for what the bundle says: -t for a terminal, none without",
        )
    return found


def _own_hostname() -> str:
    return Path("/proc/sys/kernel/hostname").read_text().strip()


async def _shielded_thread(function: Any, *args: Any) -> None:
    with anyio.CancelScope(shield=True):
        await to_thread.run_sync(function, *args)

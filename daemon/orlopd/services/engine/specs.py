"""What a container shall be, between the contract and the core."""

from __future__ import annotations

from orlop_protos.orlop.engine.v1 import containers_pb2
from orlopd.core.engine import ContainerSpec, Source, SourceKind
from orlopd.core.oci import MountKind, Network, SpecMount
from orlopd.plugin.errors import InvalidArgument

from . import settings
from .enums import known, number_of
from .image_messages import platform, platform_message

_MOUNTS = {
    containers_pb2.MOUNT_TYPE_UNSPECIFIED: MountKind.BIND,
    containers_pb2.MOUNT_TYPE_BIND: MountKind.BIND,
    containers_pb2.MOUNT_TYPE_TMPFS: MountKind.TMPFS,
    containers_pb2.MOUNT_TYPE_VOLUME: MountKind.VOLUME,
}
_NETWORKS = {
    containers_pb2.NETWORK_MODE_UNSPECIFIED: Network.NONE,
    containers_pb2.NETWORK_MODE_NONE: Network.NONE,
    containers_pb2.NETWORK_MODE_HOST: Network.HOST,
}


def container_spec(message: containers_pb2.ContainerSpec) -> ContainerSpec:
    """:raises InvalidArgument: the source is not said, or an enum's value is not known"""
    return ContainerSpec(
        source=_source(message),
        name=message.name,
        args=tuple(message.args),
        entrypoint=tuple(message.entrypoint.args) if message.HasField("entrypoint") else None,
        env=tuple(message.env),
        working_dir=message.working_dir,
        user=message.user,
        hostname=message.hostname,
        terminal=message.terminal,
        stdin=message.stdin,
        labels=dict(message.labels),
        mounts=tuple(_mount(each) for each in message.mounts),
        network=known(_NETWORKS, message.network, "network mode"),
        resources=settings.resources(message.resources),
        read_only=message.read_only,
        cap_add=tuple(message.cap_add),
        cap_drop=tuple(message.cap_drop),
        snapshotter=message.snapshotter,
        runtime=message.runtime,
        auto_remove=message.auto_remove,
        restart=message.restart,
        stop_signal=message.stop_signal,
        platform=platform(message.platform) if message.HasField("platform") else None,
        **settings.spec_settings(message),
    )


def _source(message: containers_pb2.ContainerSpec) -> Source:
    which = message.WhichOneof("source")
    if which is None:
        raise InvalidArgument("the container's source is missing: image, rootfs, bundle or scratch")
    value = "" if which == "scratch" else getattr(message, which)
    return Source(SourceKind(which), value)


def _mount(message: containers_pb2.ContainerMount) -> SpecMount:
    kind = known(_MOUNTS, message.type, "mount type")
    return SpecMount(kind, message.target, message.source, message.read_only, tuple(message.options))


def container_spec_message(spec: ContainerSpec) -> containers_pb2.ContainerSpec:
    """The spec that a container was made by."""
    message = containers_pb2.ContainerSpec(
        name=spec.name,
        args=spec.args,
        entrypoint=None if spec.entrypoint is None else containers_pb2.Entrypoint(args=spec.entrypoint),
        env=spec.env,
        working_dir=spec.working_dir,
        user=spec.user,
        hostname=spec.hostname,
        terminal=spec.terminal,
        stdin=spec.stdin,
        labels=dict(spec.labels),
        mounts=[_mount_message(each) for each in spec.mounts],
        network=number_of(_NETWORKS, spec.network),
        resources=settings.resources_message(spec.resources),
        read_only=spec.read_only,
        cap_add=spec.cap_add,
        cap_drop=spec.cap_drop,
        snapshotter=spec.snapshotter,
        runtime=spec.runtime,
        auto_remove=spec.auto_remove,
        restart=spec.restart,
        stop_signal=spec.stop_signal,
        platform=platform_message(spec.platform) if spec.platform else None,
        **settings.spec_settings_message(spec),
    )
    if spec.source.kind is SourceKind.SCRATCH:
        message.scratch.SetInParent()
    else:
        setattr(message, spec.source.kind.value, spec.source.value)
    return message


def _mount_message(mount: SpecMount) -> containers_pb2.ContainerMount:
    return containers_pb2.ContainerMount(
        type=number_of(_MOUNTS, mount.kind),
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        options=mount.options,
    )

"""Between the messages of ``orlop.engine.v1`` and the values of the core."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

from orlop_protos.orlop.engine.v1 import containers_pb2, images_pb2, stream_pb2
from orlopd.core.engine import ContainerSpec, OnCancel, PullPolicy, Source, SourceKind, State, View, Window
from orlopd.core.engine.inventory import ImageInfo
from orlopd.core.manifests import ImageConfig
from orlopd.core.oci import MountKind, Network, SpecMount
from orlopd.core.progress import BlobKind, BlobProgress, BlobState
from orlopd.core.signals import parse_signal
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.resolver import Credentials, ResolveOptions
from orlopd.plugin.runtime import Detach, Detached, Exit, Input, Output, Resize, SendSignal, Stdin
from orlopd.plugin.values import Descriptor, Image, Platform
from orlopd.services.convert import from_timestamp, to_timestamp

from . import settings

M = TypeVar("M", bound=Message)
T = TypeVar("T")

PAGE = 1000
MOST_STDIN = 1 << 20
"""The most bytes of a message of input, as the contract says."""

_STATES = {
    State.CREATED: containers_pb2.CONTAINER_STATE_CREATED,
    State.RUNNING: containers_pb2.CONTAINER_STATE_RUNNING,
    State.PAUSED: containers_pb2.CONTAINER_STATE_PAUSED,
    State.STOPPED: containers_pb2.CONTAINER_STATE_STOPPED,
    State.UNKNOWN: containers_pb2.CONTAINER_STATE_UNSPECIFIED,
}
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
_PULLS = {
    containers_pb2.PULL_POLICY_UNSPECIFIED: PullPolicy.MISSING,
    containers_pb2.PULL_POLICY_MISSING: PullPolicy.MISSING,
    containers_pb2.PULL_POLICY_ALWAYS: PullPolicy.ALWAYS,
    containers_pb2.PULL_POLICY_NEVER: PullPolicy.NEVER,
}
_CANCELS = {
    containers_pb2.ON_CANCEL_UNSPECIFIED: OnCancel.DETACH,
    containers_pb2.ON_CANCEL_DETACH: OnCancel.DETACH,
    containers_pb2.ON_CANCEL_KILL: OnCancel.KILL,
}
_KINDS = {
    BlobKind.INDEX: images_pb2.BLOB_KIND_INDEX,
    BlobKind.MANIFEST: images_pb2.BLOB_KIND_MANIFEST,
    BlobKind.CONFIG: images_pb2.BLOB_KIND_CONFIG,
    BlobKind.LAYER: images_pb2.BLOB_KIND_LAYER,
}
_BLOB_STATES = {
    BlobState.WAITING: images_pb2.BLOB_STATE_WAITING,
    BlobState.FETCHING: images_pb2.BLOB_STATE_FETCHING,
    BlobState.FETCHED: images_pb2.BLOB_STATE_FETCHED,
    BlobState.EXISTS: images_pb2.BLOB_STATE_EXISTS,
    BlobState.UNPACKING: images_pb2.BLOB_STATE_UNPACKING,
    BlobState.UNPACKED: images_pb2.BLOB_STATE_UNPACKED,
    BlobState.PUSHING: images_pb2.BLOB_STATE_PUSHING,
    BlobState.PUSHED: images_pb2.BLOB_STATE_PUSHED,
    BlobState.MOUNTED: images_pb2.BLOB_STATE_MOUNTED,
}


# --- In --------------------------------------------------------------------------------------------------


def known(table: dict[Any, T], value: Any, what: str) -> T:
    """What an enum's value means. :raises InvalidArgument: a value of a later version"""
    if value not in table:
        raise InvalidArgument(f"{what} {value} is not known to this daemon")
    return table[value]


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


def platform(message: images_pb2.Platform) -> Platform | None:
    """A platform, None for an empty one."""
    if not message.os and not message.architecture:
        return None
    return Platform(message.os, message.architecture, message.variant, message.os_version)


def pull_policy(value: Any) -> PullPolicy:
    """:raises InvalidArgument: a value of a later version"""
    return known(_PULLS, value, "pull policy")


def on_cancel(value: Any) -> OnCancel:
    """:raises InvalidArgument: a value of a later version"""
    return known(_CANCELS, value, "on_cancel")


def window(message: Any) -> Window | None:
    """The window of options that may have one."""
    return Window(message.window.width, message.window.height) if message.HasField("window") else None


def resolve_options(message: Any) -> ResolveOptions:
    """Credentials and transport of options that have both."""
    given = message.credentials
    credentials = Credentials(given.username, given.secret) if message.HasField("credentials") else None
    return ResolveOptions(credentials, message.plain_http)


def image_config(message: images_pb2.ImageConfig) -> ImageConfig:
    """A configuration for an image to be built."""
    return ImageConfig(
        platform=Platform("", ""),
        entrypoint=tuple(message.entrypoint),
        cmd=tuple(message.cmd),
        env=tuple(message.env),
        working_dir=message.working_dir,
        user=message.user,
        stop_signal=message.stop_signal,
        labels=dict(message.labels),
        healthcheck=settings.healthcheck(message.healthcheck) if message.HasField("healthcheck") else None,
    )


def stream_input(message: stream_pb2.StreamInput) -> Input:
    """:raises InvalidArgument: nothing is said, too much at once, or there is no such signal"""
    match message.WhichOneof("input"):
        case "stdin":
            if len(message.stdin) > MOST_STDIN:
                raise InvalidArgument(
                    f"{len(message.stdin)} bytes of stdin in one message: 1 MiB is the most"
                )
            return Stdin(message.stdin)
        case "stdin_end":
            return Stdin(b"", end=True)
        case "resize":
            return Resize(message.resize.width, message.resize.height)
        case "signal":
            return SendSignal(parse_signal(message.signal.name))
        case "detach":
            return Detach()
        case _:
            raise InvalidArgument("an input says nothing: stdin, stdin_end, resize, signal or detach")


def moment(message: Any, field: str) -> datetime | None:
    """A timestamp field as a time, None where it is unset.

    :raises InvalidArgument: it is out of range
    """
    if not message.HasField(field):
        return None
    return from_timestamp(getattr(message, field))


# --- Out -------------------------------------------------------------------------------------------------


def process_exit(ended: Exit) -> stream_pb2.ProcessExit:
    """How a process ended."""
    return stream_pb2.ProcessExit(
        code=ended.code & 0xFFFFFFFF, at=to_timestamp(ended.at), reason=ended.reason
    )


def stream_output(item: Output | Exit | Detached) -> stream_pb2.StreamOutput:
    """What a process says."""
    match item:
        case Output(fd=2):
            return stream_pb2.StreamOutput(stderr=item.data)
        case Output():
            return stream_pb2.StreamOutput(stdout=item.data)
        case Exit():
            return stream_pb2.StreamOutput(exit=process_exit(item))
        case Detached():
            return stream_pb2.StreamOutput(detached=stream_pb2.Detached())


def blob_progress(event: BlobProgress) -> images_pb2.BlobProgress:
    """How far a blob has come."""
    return images_pb2.BlobProgress(
        digest=event.digest,
        kind=_KINDS[event.kind],
        state=_BLOB_STATES[event.state],
        current=event.current,
        total=event.total,
        rate=event.rate,
    )


def image(value: Image, info: ImageInfo) -> images_pb2.Image:
    """An image."""
    return images_pb2.Image(
        name=value.name,
        digest=value.target.digest,
        size=info.size,
        platforms=[platform_message(each) for each in info.platforms],
        created_at=to_timestamp(value.created_at),
        updated_at=to_timestamp(value.updated_at),
        labels=dict(value.labels),
    )


def platform_message(value: Platform) -> images_pb2.Platform:
    """A platform."""
    return images_pb2.Platform(
        os=value.os,
        architecture=value.architecture,
        variant=value.variant,
        os_version=value.os_version,
    )


def referrer(value: Descriptor) -> images_pb2.Referrer:
    """What is about something else."""
    return images_pb2.Referrer(
        digest=value.digest,
        media_type=value.media_type,
        size=value.size,
        artifact_type=value.artifact_type,
        annotations=dict(value.annotations),
    )


def image_config_message(value: ImageConfig) -> images_pb2.ImageConfig:
    """An image's configuration."""
    return images_pb2.ImageConfig(
        entrypoint=value.entrypoint,
        cmd=value.cmd,
        env=value.env,
        working_dir=value.working_dir,
        user=value.user,
        stop_signal=value.stop_signal,
        labels=dict(value.labels),
        diff_ids=value.diff_ids,
        healthcheck=settings.healthcheck_message(value.healthcheck) if value.healthcheck else None,
    )


def container(view: View) -> containers_pb2.Container:
    """A container as it is."""
    return containers_pb2.Container(
        id=view.id,
        name=view.name,
        image=view.image,
        state=_STATES[view.state],
        pid=view.pid,
        exit=process_exit(view.exit) if view.exit else None,
        args=view.args,
        created_at=to_timestamp(view.created_at),
        started_at=to_timestamp(view.started_at) if view.started_at else None,
        labels=dict(view.labels),
        snapshotter=view.snapshotter,
        runtime=view.runtime,
        terminal=view.terminal,
        auto_remove=view.auto_remove,
        restart=view.restart,
        restarts=view.restarts,
        health=settings.health_message(view.health) if view.health else None,
        spec=container_spec_message(view.spec) if view.spec else None,
    )


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
        network=_back(_NETWORKS, spec.network),
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
        type=_back(_MOUNTS, mount.kind),
        source=mount.source,
        target=mount.target,
        read_only=mount.read_only,
        options=mount.options,
    )


def _back(table: dict[Any, Any], value: Any) -> Any:
    # The last key of a value: the first may be "unspecified".
    return [key for key, each in table.items() if each is value][-1]


def container_states(values: Iterable[Any]) -> set[State]:
    """:raises InvalidArgument: a value of a later version"""
    table = {number: state for state, number in _STATES.items()}
    return {known(table, value, "container state") for value in values}


# --- Lists -----------------------------------------------------------------------------------------------


def page(
    items: Sequence[T], key: Callable[[T], list[Any]], size: int, token: str, *, descending: bool = False
) -> tuple[Sequence[T], str]:
    """One page of sorted items, and the token of the next ("" after the last).

    A token names the last item given, so that what comes and goes between two pages shifts nothing.

    :raises InvalidArgument: a malformed token, or a negative size
    """
    if size < 0:
        raise InvalidArgument("page_size cannot be negative")
    after = _read_token(token) if token else None
    if after is not None:
        try:
            items = [each for each in items if (key(each) < after if descending else key(each) > after)]
        except TypeError as error:
            raise _bad_token(token) from error
    chosen = items[: min(size or PAGE, PAGE)]
    more = len(items) > len(chosen)
    return chosen, _write_token(key(chosen[-1])) if more and chosen else ""


def _write_token(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _read_token(token: str) -> list[Any]:
    try:
        key = json.loads(base64.urlsafe_b64decode(token.encode()))
    except ValueError as error:
        raise _bad_token(token) from error
    if not isinstance(key, list):
        raise _bad_token(token)
    return key


def _bad_token(token: str) -> InvalidArgument:
    return InvalidArgument(
        f"page_token {token[:40]!r} did not come from this daemon", reason="BAD_PAGE_TOKEN"
    )


def masked(message: M, mask: field_mask_pb2.FieldMask, kind: type[M]) -> M:
    """The fields of a message that a mask names; all of them without a mask.

    :raises InvalidArgument: it names a field that there is not
    """
    if not mask.paths:
        return message
    descriptor: Any = kind.DESCRIPTOR
    if not mask.IsValidForDescriptor(descriptor):
        raise InvalidArgument(
            f"read_mask {','.join(mask.paths)[:200]!r}: {kind.DESCRIPTOR.name} has no such field"
        )
    chosen = kind()
    mask.MergeMessage(message, chosen)
    return chosen

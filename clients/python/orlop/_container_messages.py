"""Between the contract's messages of containers and the SDK's values."""

from __future__ import annotations

from orlop import _settings
from orlop import values as v
from orlop._image_messages import platform, platform_message
from orlop._stream_messages import exit_
from orlop._times import when
from orlop_protos.orlop.engine.v1 import containers_pb2

STATES = {
    v.ContainerState.UNSPECIFIED: containers_pb2.CONTAINER_STATE_UNSPECIFIED,
    v.ContainerState.CREATED: containers_pb2.CONTAINER_STATE_CREATED,
    v.ContainerState.RUNNING: containers_pb2.CONTAINER_STATE_RUNNING,
    v.ContainerState.PAUSED: containers_pb2.CONTAINER_STATE_PAUSED,
    v.ContainerState.STOPPED: containers_pb2.CONTAINER_STATE_STOPPED,
}
POLICIES = {
    v.PullPolicy.MISSING: containers_pb2.PULL_POLICY_MISSING,
    v.PullPolicy.ALWAYS: containers_pb2.PULL_POLICY_ALWAYS,
    v.PullPolicy.NEVER: containers_pb2.PULL_POLICY_NEVER,
}
ON_CANCEL = {
    v.OnCancel.DETACH: containers_pb2.ON_CANCEL_DETACH,
    v.OnCancel.KILL: containers_pb2.ON_CANCEL_KILL,
}
NETWORKS = {
    v.Network.NONE: containers_pb2.NETWORK_MODE_NONE,
    v.Network.HOST: containers_pb2.NETWORK_MODE_HOST,
}
MOUNTS = {
    v.MountType.BIND: containers_pb2.MOUNT_TYPE_BIND,
    v.MountType.TMPFS: containers_pb2.MOUNT_TYPE_TMPFS,
    v.MountType.VOLUME: containers_pb2.MOUNT_TYPE_VOLUME,
}


def mount_message(m: v.Mount) -> containers_pb2.ContainerMount:
    return containers_pb2.ContainerMount(
        type=MOUNTS[m.type], source=m.source, target=m.target, read_only=m.read_only, options=m.options
    )


def spec_message(s: v.ContainerSpec) -> containers_pb2.ContainerSpec:
    sources = [name for name in ("image", "rootfs", "bundle", "scratch") if getattr(s, name)]
    if len(sources) != 1:
        found = " and ".join(sources) or "none"
        raise ValueError(
            f"a container needs exactly one of image, rootfs, bundle and scratch; given: {found}"
        )
    message = containers_pb2.ContainerSpec(
        name=s.name,
        args=s.args,
        env=s.env,
        working_dir=s.working_dir,
        user=s.user,
        hostname=s.hostname,
        terminal=s.terminal,
        stdin=s.stdin,
        labels=s.labels,
        mounts=map(mount_message, s.mounts),
        network=NETWORKS[s.network],
        resources=_settings.resources_message(s.resources),
        read_only=s.read_only,
        cap_add=s.cap_add,
        cap_drop=s.cap_drop,
        snapshotter=s.snapshotter,
        runtime=s.runtime,
        auto_remove=s.auto_remove,
        stop_signal=s.stop_signal,
        restart=s.restart,
        platform=platform_message(s.platform),
        **_settings.settings_message(s),
    )
    if s.scratch:
        message.scratch.SetInParent()
    else:
        setattr(message, sources[0], getattr(s, sources[0]))
    if s.entrypoint is not None:
        message.entrypoint.SetInParent()
        message.entrypoint.args.extend(s.entrypoint)
    return message


def spec(m: containers_pb2.ContainerSpec) -> v.ContainerSpec:
    source = m.WhichOneof("source")
    mount_types = {number: kind for kind, number in MOUNTS.items()}
    return v.ContainerSpec(
        image=m.image,
        rootfs=m.rootfs,
        bundle=m.bundle,
        scratch=source == "scratch",
        args=tuple(m.args),
        name=m.name,
        entrypoint=tuple(m.entrypoint.args) if m.HasField("entrypoint") else None,
        env=tuple(m.env),
        working_dir=m.working_dir,
        user=m.user,
        hostname=m.hostname,
        terminal=m.terminal,
        stdin=m.stdin,
        labels=dict(m.labels),
        mounts=tuple(
            v.Mount(
                target=mount.target,
                source=mount.source,
                type=mount_types.get(mount.type, v.MountType.BIND),
                read_only=mount.read_only,
                options=tuple(mount.options),
            )
            for mount in m.mounts
        ),
        network=v.Network.HOST if m.network == containers_pb2.NETWORK_MODE_HOST else v.Network.NONE,
        resources=_settings.resources(m.resources),
        read_only=m.read_only,
        cap_add=tuple(m.cap_add),
        cap_drop=tuple(m.cap_drop),
        snapshotter=m.snapshotter,
        runtime=m.runtime,
        auto_remove=m.auto_remove,
        stop_signal=m.stop_signal,
        restart=m.restart,
        platform=platform(m.platform) if m.HasField("platform") else None,
        **_settings.settings(m),
    )


def container(m: containers_pb2.Container) -> v.Container:
    return v.Container(
        id=m.id,
        name=m.name,
        image=m.image,
        state={number: state for state, number in STATES.items()}.get(m.state, v.ContainerState.UNSPECIFIED),
        pid=m.pid,
        exit=exit_(m.exit) if m.HasField("exit") else None,
        args=tuple(m.args),
        created_at=when(m, "created_at"),
        started_at=when(m, "started_at"),
        labels=dict(m.labels),
        snapshotter=m.snapshotter,
        runtime=m.runtime,
        terminal=m.terminal,
        auto_remove=m.auto_remove,
        restart=m.restart,
        restarts=m.restarts,
        health=_settings.health(m.health) if m.HasField("health") else None,
        spec=spec(m.spec) if m.HasField("spec") else None,
    )


def log_line(m: containers_pb2.LogsResponse) -> v.LogLine:
    stderr = m.stream == containers_pb2.LOG_STREAM_STDERR
    return v.LogLine(m.data, v.LogStream.STDERR if stderr else v.LogStream.STDOUT, when(m, "at"))


def process(m: containers_pb2.ContainerProcess) -> v.Process:
    return v.Process(
        pid=m.pid,
        parent_pid=m.parent_pid,
        inner_pid=m.inner_pid,
        exec_id=m.exec_id,
        uid=m.uid,
        state=m.state,
        cpu_nanos=m.cpu_nanos,
        memory_bytes=m.memory_bytes,
        started_at=when(m, "started_at"),
        name=m.name,
        args=tuple(m.args),
    )


def stats(m: containers_pb2.StatsResponse) -> v.Stats:
    return v.Stats(
        at=when(m, "at"),
        cpu_nanos=m.cpu_nanos,
        memory_bytes=m.memory_bytes,
        memory_limit=m.memory_limit,
        pids=m.pids,
        io_read_bytes=m.io_read_bytes,
        io_write_bytes=m.io_write_bytes,
    )

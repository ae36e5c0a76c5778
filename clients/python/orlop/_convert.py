"""Between the contract's messages and the SDK's values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

from orlop import _settings
from orlop import values as v
from orlop._times import when
from orlop_protos.orlop.engine.v1 import containers_pb2, images_pb2, stream_pb2, system_pb2

E = TypeVar("E", bound=StrEnum)

# --- Small things -------------------------------------------------------------------------------------------


def to_enum(cls: type[E], name: str, prefix: str, otherwise: E) -> E:
    """A protobuf enum's name as ours; what a newer daemon adds is ``otherwise``."""
    try:
        return cls(name.removeprefix(prefix).lower())
    except ValueError:
        return otherwise


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

# --- Images -------------------------------------------------------------------------------------------------


def platform(m: images_pb2.Platform) -> v.Platform:
    return v.Platform(m.os, m.architecture, m.variant, m.os_version)


def platform_message(p: v.Platform | None) -> images_pb2.Platform | None:
    return p and images_pb2.Platform(
        os=p.os, architecture=p.architecture, variant=p.variant, os_version=p.os_version
    )


def referrers(m: images_pb2.ListReferrersResponse) -> v.Referrers:
    listed = tuple(
        v.Referrer(each.digest, each.media_type, each.size, each.artifact_type, dict(each.annotations))
        for each in m.referrers
    )
    return v.Referrers(m.subject, listed)


def credentials_message(c: v.Credentials | None) -> images_pb2.Credentials | None:
    return c and images_pb2.Credentials(username=c.username, secret=c.secret)


def image(m: images_pb2.Image) -> v.Image:
    return v.Image(
        name=m.name,
        digest=m.digest,
        size=m.size,
        platforms=tuple(map(platform, m.platforms)),
        created_at=when(m, "created_at"),
        updated_at=when(m, "updated_at"),
        labels=dict(m.labels),
    )


def image_config(m: images_pb2.ImageConfig) -> v.ImageConfig:
    return v.ImageConfig(
        entrypoint=tuple(m.entrypoint),
        cmd=tuple(m.cmd),
        env=tuple(m.env),
        working_dir=m.working_dir,
        user=m.user,
        stop_signal=m.stop_signal,
        labels=dict(m.labels),
        diff_ids=tuple(m.diff_ids),
        healthcheck=_settings.healthcheck(m.healthcheck) if m.HasField("healthcheck") else None,
    )


def image_config_message(c: v.ImageConfig) -> images_pb2.ImageConfig:
    return images_pb2.ImageConfig(
        entrypoint=c.entrypoint,
        cmd=c.cmd,
        env=c.env,
        working_dir=c.working_dir,
        user=c.user,
        stop_signal=c.stop_signal,
        labels=c.labels,
        diff_ids=c.diff_ids,
        healthcheck=_settings.healthcheck_message(c.healthcheck) if c.healthcheck else None,
    )


def progress(m: images_pb2.BlobProgress) -> v.BlobProgress:
    kind = images_pb2.BlobKind.Name(m.kind) if m.kind in images_pb2.BlobKind.values() else ""
    state = images_pb2.BlobState.Name(m.state) if m.state in images_pb2.BlobState.values() else ""
    return v.BlobProgress(
        digest=m.digest,
        kind=to_enum(v.BlobKind, kind, "BLOB_KIND_", v.BlobKind.UNSPECIFIED),
        state=to_enum(v.BlobState, state, "BLOB_STATE_", v.BlobState.UNSPECIFIED),
        current=m.current,
        total=m.total,
        rate=m.rate,
    )


def push_progress(m: images_pb2.PushResponse) -> v.PushProgress | None:
    match m.WhichOneof("response"):
        case "resolved":
            return v.Resolved(m.resolved.name, m.resolved.digest, m.resolved.media_type)
        case "progress":
            return progress(m.progress)
        case "pushed":
            return v.Pushed(m.pushed.name, m.pushed.digest, m.pushed.media_type)
        case _:
            return None


def pull_progress(m: images_pb2.PullResponse) -> v.PullProgress | None:
    match m.WhichOneof("response"):
        case "resolved":
            return v.Resolved(m.resolved.name, m.resolved.digest, m.resolved.media_type)
        case "progress":
            return progress(m.progress)
        case "image":
            return image(m.image)
        case _:
            return None


# --- Containers ---------------------------------------------------------------------------------------------


def exit_(m: stream_pb2.ProcessExit) -> v.Exit:
    return v.Exit(code=m.code, at=when(m, "at"), reason=m.reason)


def window_message(w: v.WindowSize | None) -> stream_pb2.WindowSize | None:
    return w and stream_pb2.WindowSize(width=w.width, height=w.height)


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


def output(m: stream_pb2.StreamOutput) -> v.Output | v.Exit | v.Detached | None:
    match m.WhichOneof("output"):
        case "stdout":
            return v.Output(m.stdout, v.LogStream.STDOUT)
        case "stderr":
            return v.Output(m.stderr, v.LogStream.STDERR)
        case "exit":
            return exit_(m.exit)
        case "detached":
            return v.Detached()
        case _:
            return None


def session_event(m: Any) -> v.SessionEvent | None:
    """What a response of Run, Start, Attach or Exec says; None for what a newer daemon adds."""
    match m.WhichOneof("response"):
        case "output":
            return output(m.output)
        case "started":
            return v.Started(pid=m.started.pid, exec_id=m.started.exec_id)
        case "attached":
            return v.Started(terminal=m.attached.terminal)
        case "created":
            return v.Created(m.created.id, m.created.name)
        case "progress":
            return progress(m.progress)
        case _:
            return None


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


# --- System -------------------------------------------------------------------------------------------------


def info(m: system_pb2.InfoResponse) -> v.Info:
    return v.Info(
        root_dir=m.root_dir,
        state_dir=m.state_dir,
        default_snapshotter=m.default_snapshotter,
        default_runtime=m.default_runtime,
        containers=m.containers,
        containers_running=m.containers_running,
        images=m.images,
        cgroup_mode=m.cgroup_mode,
        kernel=m.kernel,
        architecture=m.architecture,
        extra=dict(m.extra),
        warnings=tuple(m.warnings),
    )


def disk_usage(m: system_pb2.DiskUsageResponse) -> v.DiskUsage:
    snapshots: Mapping[str, v.Usage] = {
        s.snapshotter: v.Usage(s.usage.count, s.usage.bytes) for s in m.snapshots
    }
    return v.DiskUsage(
        content=v.Usage(m.content.count, m.content.bytes),
        snapshots=snapshots,
        reclaimable=m.reclaimable,
        reclaimable_all=m.reclaimable_all,
        reclaimable_snapshots={s.snapshotter: s.reclaimable_all for s in m.snapshots},
    )


def object_usage(m: system_pb2.ObjectUsage) -> v.ObjectUsage:
    kind = _object_kind(m.kind)
    return v.ObjectUsage(kind, m.id, m.bytes, when(m, "created_at"), m.kept_by, m.keepers)


def explanation(m: system_pb2.WhyResponse) -> v.Explanation:
    return v.Explanation(
        kind=_object_kind(m.kind),
        id=m.id,
        present=m.present,
        chains=tuple(tuple(_link(link) for link in chain.links) for chain in m.chains),
        more_chains=m.more_chains,
        removals=tuple(
            v.Removal(_object_kind(r.kind), r.id, when(r, "at"), r.collected, r.reason) for r in m.removals
        ),
    )


def _link(m: system_pb2.ReferenceLink) -> v.ReferenceLink:
    return v.ReferenceLink(_object_kind(m.kind), m.id, m.reference, m.reason, when(m, "expires_at"))


def check(m: system_pb2.CheckResponse) -> v.Finding | v.CheckProgress | v.CheckSummary | None:
    """What a check said; None for what a newer daemon adds."""
    match m.WhichOneof("payload"):
        case "finding":
            f = m.finding
            return v.Finding(f.code, f.namespace, f.object, f.message, f.repaired, f.hint)
        case "progress":
            p = m.progress
            return v.CheckProgress(p.stage, p.blobs, p.blobs_total, p.bytes, p.bytes_total)
        case "summary":
            s = m.summary
            return v.CheckSummary(s.findings, s.repaired, s.blobs, s.bytes, s.snapshots)
        case _:
            return None


def pruned(m: system_pb2.PruneResponse) -> v.Pruned:
    objects = tuple(
        v.PrunedObject(_object_kind(each.kind), each.id, each.bytes, each.reason) for each in m.objects
    )
    return v.Pruned(objects, m.reclaimed, m.more)


def _object_kind(value: Any) -> v.ObjectKind:
    name = system_pb2.ObjectKind.Name(value) if value in system_pb2.ObjectKind.values() else ""
    return to_enum(v.ObjectKind, name, "OBJECT_KIND_", v.ObjectKind.UNSPECIFIED)


def event(m: system_pb2.EventsResponse) -> v.Event | v.EventsGap:
    if m.HasField("gap"):
        return v.EventsGap(when(m.gap, "since"), when(m.gap, "until"), m.gap.reason)
    return v.Event(when(m, "at"), m.namespace, m.topic, m.event.type_url, m.json)


def plugin(m: system_pb2.Plugin) -> v.Plugin:
    status = system_pb2.PluginStatus.Name(m.status) if m.status in system_pb2.PluginStatus.values() else ""
    return v.Plugin(
        kind=m.kind,
        id=m.id,
        status=to_enum(v.PluginStatus, status, "PLUGIN_STATUS_", v.PluginStatus.UNSPECIFIED),
        reason=m.reason,
        origin=m.origin,
        aliases=tuple(m.aliases),
        exports=dict(m.exports),
    )

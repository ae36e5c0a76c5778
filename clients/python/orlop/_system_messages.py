"""Between the contract's messages of the daemon itself and the SDK's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orlop import values as v
from orlop._enums import to_enum
from orlop._times import when
from orlop_protos.orlop.engine.v1 import system_pb2


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

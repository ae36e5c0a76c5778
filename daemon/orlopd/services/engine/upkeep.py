"""Between the messages of SystemService about storage and the values of the core."""

from __future__ import annotations

from typing import Any

from orlop_protos.orlop.engine.v1 import system_pb2
from orlopd.core import graph, removals
from orlopd.core.checks import Finding, Progress, Report
from orlopd.core.removals import Removed
from orlopd.core.upkeep import Kept, Preview
from orlopd.core.why import Explanation, Link, describe, key_of, kind_of, reason_of
from orlopd.services.convert import to_timestamp

_KINDS: dict[str, Any] = {
    graph.CONTENT: system_pb2.OBJECT_KIND_BLOB,
    graph.SNAPSHOT: system_pb2.OBJECT_KIND_SNAPSHOT,
    graph.IMAGE: system_pb2.OBJECT_KIND_IMAGE,
    graph.CONTAINER: system_pb2.OBJECT_KIND_CONTAINER,
    graph.LEASE: system_pb2.OBJECT_KIND_LEASE,
    graph.INGEST: system_pb2.OBJECT_KIND_INGEST,
}


def _kind(node: str) -> Any:
    return _KINDS.get(kind_of(node), system_pb2.OBJECT_KIND_UNSPECIFIED)


def object_usage(kept: Kept) -> system_pb2.ObjectUsage:
    """One object of a list of what there is."""
    return system_pb2.ObjectUsage(
        kind=_kind(kept.node),
        id=key_of(kept.node),
        bytes=kept.size,
        created_at=to_timestamp(kept.created_at),
        kept_by=describe(kept.keepers[0]) if kept.keepers else "",
        keepers=len(kept.keepers),
    )


def pruned(gone: Preview) -> system_pb2.PruneResponse:
    """What went."""
    return system_pb2.PruneResponse(
        objects=[
            system_pb2.PrunedObject(
                kind=_kind(each.node), id=key_of(each.node), bytes=each.size, reason=each.reason
            )
            for each in gone.objects
        ],
        reclaimed=sum(each.size for each in gone.objects),
        more=gone.more,
    )


def why(found: Explanation) -> system_pb2.WhyResponse:
    """Why something is there, or is not."""
    return system_pb2.WhyResponse(
        kind=_kind(found.node),
        id=key_of(found.node),
        present=found.present,
        chains=[system_pb2.ReferenceChain(links=[_link(link) for link in chain]) for chain in found.chains],
        more_chains=found.more,
        removals=[_removal(each) for each in found.removals],
    )


def _link(link: Link) -> system_pb2.ReferenceLink:
    return system_pb2.ReferenceLink(
        kind=_kind(link.node),
        id=key_of(link.node),
        reference=link.reference,
        reason=link.reason,
        expires_at=to_timestamp(link.expires_at) if link.expires_at else None,
    )


def _removal(removed: Removed) -> system_pb2.Removal:
    return system_pb2.Removal(
        kind=_kind(removed.node),
        id=key_of(removed.node),
        at=to_timestamp(removed.at),
        collected=removed.how != removals.DELETED,
        reason=reason_of(removed),
    )


def check(item: Report) -> system_pb2.CheckResponse:
    """What a check says."""
    if isinstance(item, Finding):
        finding = system_pb2.Finding(
            code=item.code,
            namespace=item.namespace,
            object=item.object,
            message=item.message,
            repaired=item.repaired,
            hint=item.hint,
        )
        return system_pb2.CheckResponse(finding=finding)
    if isinstance(item, Progress):
        progress = system_pb2.CheckProgress(
            stage=item.stage,
            blobs=item.blobs,
            blobs_total=item.blobs_total,
            bytes=item.bytes,
            bytes_total=item.bytes_total,
        )
        return system_pb2.CheckResponse(progress=progress)
    return system_pb2.CheckResponse(
        summary=system_pb2.CheckSummary(
            findings=item.findings,
            repaired=item.repaired,
            blobs=item.blobs,
            bytes=item.bytes,
            snapshots=item.snapshots,
        )
    )

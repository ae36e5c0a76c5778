"""Between the contract's messages of images and the SDK's values."""

from __future__ import annotations

from orlop import _settings
from orlop import values as v
from orlop._enums import to_enum
from orlop._times import when
from orlop_protos.orlop.engine.v1 import images_pb2


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

"""Images, and what is told of them on their way, between the contract and the core."""

from __future__ import annotations

from orlop_protos.orlop.engine.v1 import images_pb2
from orlopd.core.engine.inventory import ImageInfo
from orlopd.core.manifests import ImageConfig
from orlopd.core.progress import BlobKind, BlobProgress, BlobState
from orlopd.plugin.values import Descriptor, Image, Platform
from orlopd.services.convert import to_timestamp

from . import settings

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


def platform(message: images_pb2.Platform) -> Platform | None:
    """A platform, None for an empty one."""
    if not message.os and not message.architecture:
        return None
    return Platform(message.os, message.architecture, message.variant, message.os_version)


def platform_message(value: Platform) -> images_pb2.Platform:
    """A platform."""
    return images_pb2.Platform(
        os=value.os,
        architecture=value.architecture,
        variant=value.variant,
        os_version=value.os_version,
    )


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


def referrer(value: Descriptor) -> images_pb2.Referrer:
    """What is about something else."""
    return images_pb2.Referrer(
        digest=value.digest,
        media_type=value.media_type,
        size=value.size,
        artifact_type=value.artifact_type,
        annotations=dict(value.annotations),
    )


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

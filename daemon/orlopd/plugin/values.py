"""The values that cross the walls: frozen, comparable, free of protobuf."""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from .errors import InvalidArgument

Labels = Mapping[str, str]
NO_LABELS: Labels = MappingProxyType({})

_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")


def now() -> datetime:
    """The current time, in UTC."""
    return datetime.now(UTC)


def check_digest(digest: str) -> str:
    """Return ``digest`` if it is a well-formed sha256 or sha512 digest, so that it may become a path.

    :raises InvalidArgument: anything else (OCI image-spec, descriptor.md#digests)
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(f"malformed digest {digest[:160]!r}: want sha256:HEX or sha512:HEX")
    return digest


def sha256(data: bytes) -> str:
    """The sha256 digest of ``data`` as a digest string."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's spelling (OCI image-spec, image-index.md)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        system = f"{self.os}({self.os_version})" if self.os_version else self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to content (OCI image-spec, descriptor.md). ``size`` is in bytes."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    urls: tuple[str, ...] = ()
    artifact_type: str = ""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount to perform: as mount(8) has it, options included ("ro", "lowerdir=…")."""

    type: str
    source: str
    options: tuple[str, ...] = ()
    target: str = ""


class SnapshotKind(enum.Enum):
    """The three lives of a snapshot."""

    VIEW = "view"
    ACTIVE = "active"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What is known of a snapshot. ``name`` is its key; ``parent`` is "" for a base."""

    name: str
    kind: SnapshotKind
    parent: str = ""
    labels: Labels = field(default_factory=lambda: NO_LABELS)
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Usage:
    """What something takes on disk: inodes and bytes."""

    inodes: int = 0
    size: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.inodes + other.inodes, self.size + other.size)


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A committed blob. ``size`` is in bytes."""

    digest: str
    size: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class IngestStatus:
    """A blob on its way in. ``total`` is 0 and ``expected`` empty when not said."""

    ref: str
    offset: int
    total: int
    expected: str
    started_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class TypedBytes:
    """A serialized message with its type URL: a protobuf Any, without protobuf."""

    type_url: str
    value: bytes


FieldValue = str | int | bool | datetime | TypedBytes | Sequence["FieldValue"] | Mapping[str, "FieldValue"]
"""A field of an event, as plain data; services make protobuf of it."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    ``message`` is the full name of the payload's message ("containerd.events.TaskExit") and
    ``fields`` its fields by their proto names. ``raw`` is the payload as it came, when a client or
    a shim published it; ``fields`` may be empty then.
    """

    at: datetime
    namespace: str
    topic: str
    message: str
    fields: Mapping[str, FieldValue] = field(default_factory=lambda: MappingProxyType({}))
    raw: TypedBytes | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """A name for content."""

    name: str
    target: Descriptor
    labels: Labels = field(default_factory=lambda: NO_LABELS)
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class Container:
    """A container's record: what it is to be when a task is made of it."""

    id: str
    runtime: str
    image: str = ""
    spec: TypedBytes | None = None
    runtime_options: TypedBytes | None = None
    snapshotter: str = ""
    snapshot_key: str = ""
    sandbox: str = ""
    labels: Labels = field(default_factory=lambda: NO_LABELS)
    extensions: Mapping[str, TypedBytes] = field(default_factory=lambda: MappingProxyType({}))
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)


SPEC_TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
"""The type URL under which an OCI runtime spec travels as JSON."""


def chain_id(diff_ids: Sequence[str]) -> str:
    """The chain id of a stack of layers, bottom first (OCI image-spec, config.md#layer-chainid)."""
    chain = ""
    for diff_id in diff_ids:
        chain = sha256(f"{chain} {diff_id}".encode()) if chain else diff_id
    return chain

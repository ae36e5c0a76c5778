"""Indexes, manifests and image configurations, of OCI's and of Docker's spelling.

What is read here came from a registry or an archive and is hostile: every size, count and depth has
a limit, and a document means what its media type says or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orlopd.plugin.errors import InvalidArgument, NotFound
from orlopd.plugin.values import NO_LABELS, Descriptor, Platform

from . import platforms
from .documents import Node, load, malformed
from .healthcheck import Healthcheck

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD = DOCKER_LAYER + ".zstd"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"

MAX_DOCUMENT = 8 << 20
"""The most bytes of an index, manifest or configuration."""
MAX_CHILDREN = 4096
MAX_LAYERS = 1024
MAX_DEPTH = 4
"""The most indexes within indexes."""
MAX_SEARCHED = 64
"""The most indexes and manifests looked at to find one for a platform."""

KEEPS = "containerd.io/gc.ref.content"
_REFERENCE_TYPE = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    artifact_type: str = ""
    subject: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image, or an artifact; layers bottom first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    artifact_type: str = ""
    subject: Descriptor | None = None
    digest: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it can be unpacked and run; an artifact cannot."""
        return self.config.media_type in CONFIG_TYPES


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image asks of its containers (OCI image-spec, config.md), and what it was made for."""

    platform: Platform
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    created: str = ""
    healthcheck: Healthcheck | None = None


def check_pullable(target: Descriptor, name: str) -> None:
    """Refuse what cannot be an image before a byte of it is fetched.

    :raises InvalidArgument: Docker's first manifest format, whose digests cover nothing that runs
        (reason SCHEMA_1), or a media type that is no manifest's (reason NOT_AN_IMAGE)
    """
    if target.media_type.startswith(_SCHEMA_1):
        raise InvalidArgument(
            f"{name} is stored in Docker's manifest format 1, which is not supported: it is long obsolete",
            reason="SCHEMA_1",
            resource=f"image {name}",
            hint="push it again with a current tool, or copy it with skopeo --format oci",
        )
    if target.media_type not in INDEX_TYPES | MANIFEST_TYPES:
        raise InvalidArgument(
            f"{name} is no image: its media type is {target.media_type[:120]!r}",
            reason="NOT_AN_IMAGE",
            resource=f"image {name}",
        )
    check_size(target)


def check_size(descriptor: Descriptor) -> None:
    """:raises InvalidArgument: a document that says it is beyond the limit"""
    if descriptor.size > MAX_DOCUMENT:
        raise malformed(
            f"{descriptor.digest} is a document of {descriptor.size} bytes; the limit is {MAX_DOCUMENT}",
            "DOCUMENT_TOO_LARGE",
        )


def parse_index(descriptor: Descriptor, data: bytes) -> Index:
    """Read an index. ``data`` has been verified to be what the descriptor names.

    :raises InvalidArgument: it is malformed, or is not what its media type says
    """
    node = _document(descriptor, data, "index", INDEX_TYPES)
    return Index(
        media_type=descriptor.media_type,
        manifests=tuple(each.descriptor() for each in node.get("manifests").items(MAX_CHILDREN)),
        annotations=node.get("annotations").mapping(),
        artifact_type=node.get("artifactType").text(),
        subject=node.get("subject").descriptor() if node.has("subject") else None,
    )


def parse_manifest(descriptor: Descriptor, data: bytes) -> Manifest:
    """Read a manifest. ``data`` has been verified to be what the descriptor names.

    :raises InvalidArgument: it is malformed, or is not what its media type says
    """
    node = _document(descriptor, data, "manifest", MANIFEST_TYPES)
    if not node.has("config"):
        raise malformed(f"manifest {descriptor.digest} has no config")
    return Manifest(
        media_type=descriptor.media_type,
        config=node.get("config").descriptor(),
        layers=tuple(each.descriptor() for each in node.get("layers").items(MAX_LAYERS)),
        annotations=node.get("annotations").mapping(),
        artifact_type=node.get("artifactType").text(),
        subject=node.get("subject").descriptor() if node.has("subject") else None,
        digest=descriptor.digest,
    )


def parse_config(descriptor: Descriptor, data: bytes) -> ImageConfig:
    """Read an image configuration.

    :raises InvalidArgument: it is malformed, or is no configuration of an image
    """
    if descriptor.media_type not in CONFIG_TYPES:
        raise malformed(f"{descriptor.media_type[:120]!r} is no image configuration", "NOT_AN_IMAGE")
    node = load(data, f"config {descriptor.digest}", limit=MAX_DOCUMENT)
    rootfs, config = node.get("rootfs").object(), node.get("config").object()
    return ImageConfig(
        platform=node.platform() or Platform("", ""),
        entrypoint=config.get("Entrypoint").texts(),
        cmd=config.get("Cmd").texts(),
        env=config.get("Env").texts(),
        working_dir=config.get("WorkingDir").text(),
        user=config.get("User").text(),
        stop_signal=config.get("StopSignal").text(),
        labels=config.get("Labels").mapping(),
        volumes=config.get("Volumes").keys(),
        exposed_ports=config.get("ExposedPorts").keys(),
        diff_ids=tuple(each.digest() for each in rootfs.get("diff_ids").items(MAX_LAYERS)),
        created=node.get("created").text(),
        healthcheck=_healthcheck(config.get("Healthcheck")),
    )


def _healthcheck(node: Node) -> Healthcheck | None:
    """Docker's addition to the configuration; its times are nanoseconds. A malformed one counts as none:
    it is no part of the OCI's configuration, and decides nothing about what is run."""
    if node.value is None:
        return None

    def seconds(key: str) -> float:
        return node.get(key).number() / 1_000_000_000

    try:
        return Healthcheck(
            test=node.get("Test").texts(),
            interval=seconds("Interval"),
            timeout=seconds("Timeout"),
            start_period=seconds("StartPeriod"),
            start_interval=seconds("StartInterval"),
            retries=node.get("Retries").number(),
        )
    except InvalidArgument:
        return None


def children(descriptor: Descriptor, data: bytes) -> Sequence[Descriptor]:
    """What a document points at, in order; nothing for one that is neither index nor manifest."""
    if descriptor.media_type in INDEX_TYPES:
        return parse_index(descriptor, data).manifests
    if descriptor.media_type in MANIFEST_TYPES:
        manifest = parse_manifest(descriptor, data)
        return (manifest.config, *manifest.layers)
    return ()


def child_labels(descriptor: Descriptor, data: bytes, *, layers: bool = True) -> dict[str, str]:
    """The labels by which a collection that keeps a document keeps what it points at.

    The keys are containerd's, so that content which its clients stored and ours look alike.

    :param layers: keep a manifest's layers, too
    """
    labels: dict[str, str] = {}
    if descriptor.media_type in INDEX_TYPES:
        for number, child in enumerate(parse_index(descriptor, data).manifests):
            labels[f"{KEEPS}.m.{number}"] = child.digest
    elif descriptor.media_type in MANIFEST_TYPES:
        manifest = parse_manifest(descriptor, data)
        labels[f"{KEEPS}.config"] = manifest.config.digest
        for number, layer in enumerate(manifest.layers if layers else ()):
            labels[layer_label(number)] = layer.digest
    return labels


def layer_label(number: int) -> str:
    """The label by which a manifest keeps its layer of this number."""
    return f"{KEEPS}.l.{number}"


def candidates(index: Index, want: Platform) -> Sequence[Descriptor]:
    """The children of an index that may run on ``want``, the best first.

    Attestations and other children that are no image are left out.
    """
    runnable = [
        child
        for child in index.manifests
        if child.media_type in INDEX_TYPES | MANIFEST_TYPES
        and _REFERENCE_TYPE not in child.annotations
        and not (child.platform and "unknown" in (child.platform.os, child.platform.architecture))
    ]
    return platforms.ranked(want, ((child.platform, child) for child in runnable))


def offered(index: Index) -> str:
    """The platforms an index has, for a person."""
    found = {str(platforms.normalize(child.platform)) for child in index.manifests if child.platform}
    listed = sorted(found - {"unknown/unknown"})
    return ", ".join(listed[:20]) + (", …" if len(listed) > 20 else "") if listed else "none"


def check_platform(config: ImageConfig, want: Platform) -> bool:
    """Whether what a configuration says it is for serves ``want``; one that says nothing may."""
    if not config.platform.architecture:
        return True
    return platforms.match(want, config.platform) is not None


def check_serves(target: Descriptor, config: ImageConfig, want: Platform) -> None:
    """Hold an image without an index to a platform. :raises NotFound: its configuration is for another"""
    if not check_platform(config, want):
        raise NotFound(
            f"image {target.digest} is for {platforms.normalize(config.platform)}, "
            f"not for {platforms.normalize(want)}",
            reason="PLATFORM_NOT_FOUND",
            resource=f"image {target.digest}",
        )


def _document(descriptor: Descriptor, data: bytes, noun: str, types: frozenset[str]) -> Node:
    if descriptor.media_type not in types:
        raise malformed(
            f"{descriptor.media_type[:120]!r} is no media type of an {noun}".replace("an m", "a m")
        )
    what = f"{noun} {descriptor.digest}"
    node = load(data, what, limit=MAX_DOCUMENT, unique_keys=True)
    # A document that two readers take for different things is how CVE-2021-41190 slips an image past a check.
    if node.has("manifests") and (node.has("layers") or node.has("config") or node.has("fsLayers")):
        raise malformed(f"{what} is ambiguous: it has both manifests and layers", "AMBIGUOUS_MANIFEST")
    alien = ("layers", "config", "fsLayers") if noun == "index" else ("manifests", "fsLayers")
    for key in alien:
        if node.has(key):
            raise malformed(f"{what} has {key!r}, which its media type does not allow", "AMBIGUOUS_MANIFEST")
    said = node.get("mediaType").text()
    if said and said != descriptor.media_type:
        raise malformed(
            f"{what} says it is {said[:120]!r}, but came as {descriptor.media_type!r}", "AMBIGUOUS_MANIFEST"
        )
    version = node.get("schemaVersion").number()
    if version != 2:
        raise malformed(f"{what} has schemaVersion {version}; want 2")
    return node

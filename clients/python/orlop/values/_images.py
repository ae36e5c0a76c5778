"""Images, and how they come and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ._kinds import BlobKind, BlobState
from ._settings import Healthcheck


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, as Go spells it: "linux", "amd64", "" or a variant as "v8"."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        system = f"{self.os}({self.os_version})" if self.os_version else self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks a registry; an empty user name goes with an identity token."""

    username: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Image:
    """A named image; ``size`` is what its content for this machine takes, compressed."""

    name: str
    digest: str
    size: int = 0
    platforms: tuple[Platform, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image asks of the containers made from it."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Sequence[str] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    diff_ids: Sequence[str] = ()
    healthcheck: Healthcheck | None = None


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """An image and its configuration, which an artifact or another platform's image has not."""

    image: Image
    config: ImageConfig | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A name became a digest."""

    name: str
    digest: str
    media_type: str


@dataclass(frozen=True, slots=True)
class BlobProgress:
    """How far one blob has come; it replaces what was said of it before. ``total`` is 0 when not known,
    ``rate`` is in bytes a second."""

    digest: str
    kind: BlobKind
    state: BlobState
    current: int = 0
    total: int = 0
    rate: int = 0


PullProgress = Resolved | BlobProgress | Image
"""One step of a pull: what the name resolved to first, progress as it happens, the image last."""


@dataclass(frozen=True, slots=True)
class Referrer:
    """Something that says of itself that it is about something else; ``size`` is its manifest's, in bytes."""

    digest: str
    media_type: str
    size: int
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Referrers:
    """What refers to the digest ``subject``, in the registry's order."""

    subject: str
    listed: tuple[Referrer, ...]


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image is where it was pushed to."""

    name: str
    digest: str
    media_type: str


PushProgress = Resolved | BlobProgress | Pushed
"""One step of a push: what the name will point at first, progress as it happens, that it does last."""


@dataclass(frozen=True, slots=True)
class Build:
    """What an image to be built is called, what it asks of its containers and what it runs on."""

    name: str
    config: ImageConfig = ImageConfig()
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """An image's name that is gone, and the digests that went with it."""

    name: str
    deleted: tuple[str, ...] = ()

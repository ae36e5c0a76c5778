"""What the model and the client both speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MEDIA = "application/vnd.oci.image.manifest.v1+json"
RUNTIME = "io.containerd.runc.v2"
KINDS = {1: "view", 2: "active", 3: "committed"}

Labels = Mapping[str, str]


class Refused(Exception):
    """A call was answered with an error. Equal if the codes are."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Target:
    """What an image names."""

    digest: str
    size: int
    annotations: Labels = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    """An image but for its name."""

    target: Target
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True)
class Ingest:
    """How far an ingest is."""

    offset: int
    total: int


@dataclass(frozen=True)
class Snapshot:
    """A snapshot but for its key."""

    kind: str
    parent: str
    labels: Labels = field(default_factory=dict)

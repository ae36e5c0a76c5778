"""What the model and the client both speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

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


class _Unchanging:
    """What need not be copied."""

    def __deepcopy__(self, _: object) -> Self:
        return self


@dataclass(frozen=True)
class Target(_Unchanging):
    """What an image names."""

    digest: str
    size: int
    annotations: Labels = field(default_factory=dict)


@dataclass(frozen=True)
class Image(_Unchanging):
    """An image but for its name."""

    target: Target
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True)
class Ingest(_Unchanging):
    """How far an ingest is."""

    offset: int
    total: int


@dataclass(frozen=True)
class Snapshot(_Unchanging):
    """A snapshot but for its key."""

    kind: str
    parent: str
    labels: Labels = field(default_factory=dict)

"""The contract of a verifier: may this image come in?"""

from __future__ import annotations

from typing import Protocol

from .provider import Kind
from .values import Descriptor


class Verifier(Protocol):
    """Judges images before their layers are fetched, and those of an archive before they get their names."""

    async def verify(self, namespace: str, name: str, target: Descriptor) -> None:
        """Let an image pass, or refuse it.

        :param name: the full reference
        :param target: what it was resolved to
        :raises PermissionDenied: it is refused, and why
        :raises OrlopError: no judgement can be had; the image is refused as well
        """
        ...


VERIFIER = Kind[Verifier]("io.containerd.image-verifier.v1", "verifier")

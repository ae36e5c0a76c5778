"""containerd.services.version.v1: the daemon's version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orlop_protos.containerd.services.version.v1 import version_pb2, version_pb2_grpc
from orlopd.core.core import Core


class VersionService(version_pb2_grpc.VersionServicer):
    """Says which daemon this is."""

    def __init__(self, core: Core) -> None:
        settings = core.settings
        self._answer = version_pb2.VersionResponse(version=settings.version, revision=settings.revision)

    def register(self, server: Any) -> Sequence[str]:
        version_pb2_grpc.add_VersionServicer_to_server(self, server)
        return [version_pb2.DESCRIPTOR.services_by_name["Version"].full_name]

    async def Version(self, request: Any, context: Any) -> version_pb2.VersionResponse:
        return self._answer

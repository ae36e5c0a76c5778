"""The contract of a gRPC service that a plugin adds to the daemon's server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Service(Protocol):
    """One or more gRPC services."""

    def register(self, server: Any) -> Sequence[str]:
        """Add the services to a ``grpc.aio.Server`` that is not started yet.

        :returns: the full names of the services, for health and reflection
        """
        ...

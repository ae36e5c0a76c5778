"""The client: a connection to one daemon, for one namespace."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from orlop._address import default_address, default_namespace
from orlop._connection import CALL_SECONDS, Connection
from orlop._containers import Containers
from orlop._images import Images
from orlop._shims import Shims
from orlop._system import System
from orlop._volumes import Volumes


class Client:
    """A connection to a daemon: ``images``, ``containers``, ``shims``, ``system`` and ``volumes``. A context
    manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.images = Images(connection)
        self.containers = Containers(connection)
        self.shims = Shims(connection)
        self.system = System(connection)
        self.volumes = Volumes(connection)

    @property
    def address(self) -> str:
        """Where the daemon is."""
        return self._connection.address

    @property
    def namespace(self) -> str:
        """The namespace that all calls work in."""
        return self._connection.namespace

    async def close(self) -> None:
        """End the connection, and with it every call that is under way."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def connect(
    address: str | None = None, *, namespace: str | None = None, timeout: float = CALL_SECONDS
) -> Client:
    """A client for the daemon at ``address``; needs a running event loop, and connects with the first call.

    ``address`` is "unix:///path" or "host:port"; without one ORLOP_ADDRESS counts, then /run/orlop/orlop.sock
    for root and $XDG_RUNTIME_DIR/orlop/orlop.sock for others. ``namespace`` falls back to ORLOP_NAMESPACE,
    then to "default". ``timeout`` is the deadline, in seconds, of calls that have one.

    :raises InvalidArgument: the address is malformed
    """
    return Client(Connection(address or default_address(), namespace or default_namespace(), timeout))

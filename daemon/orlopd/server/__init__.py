"""The gRPC server: its sockets and locks, and what happens around every call."""

from .locks import FolderLock, LockError
from .server import Server
from .sockets import SocketError

__all__ = ["FolderLock", "LockError", "Server", "SocketError"]

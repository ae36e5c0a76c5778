"""ttrpc, the small RPC that containerd and its shims speak over unix sockets: frames, a client and a server.

Only unary calls, which are all that the task and event services have. Payloads are protobuf messages.
Follows ttrpc's protocol description, version 1.2 (PROTOCOL.md of containerd/ttrpc).
"""

from .client import TtrpcClient
from .server import Handler, Reply, TtrpcServer

__all__ = ["Handler", "Reply", "TtrpcClient", "TtrpcServer"]

"""ttrpc, the small RPC that containerd and its shims speak over unix sockets: frames, a client and a server.

Single calls, which are all that the task and event services have, and calls both of whose sides stream.
Payloads are protobuf messages. Follows ttrpc's protocol description, version 1.2 (PROTOCOL.md of
containerd/ttrpc).
"""

from .client import TtrpcClient
from .server import Handler, Methods, Reply, StreamHandler, TtrpcServer
from .stream import StreamEnd, TtrpcStream

__all__ = [
    "Handler",
    "Methods",
    "Reply",
    "StreamEnd",
    "StreamHandler",
    "TtrpcClient",
    "TtrpcServer",
    "TtrpcStream",
]

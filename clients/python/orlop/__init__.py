"""A client for Orlop, in Python.

    async with orlop.connect() as client:
        async for step in client.images.pull("alpine"):
            print(step)

``orlop.sync`` is the same without async. Names are loaded when they are first used, so that importing the
package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orlop import errors, sync, values
    from orlop._session import Session
    from orlop.client import Client, connect
    from orlop.errors import OrlopError, Resource
    from orlop.values import ContainerSpec

__all__ = [
    "Client",
    "ContainerSpec",
    "OrlopError",
    "Resource",
    "Session",
    "connect",
    "errors",
    "sync",
    "values",
]

_HOMES = {
    "Client": "orlop.client",
    "ContainerSpec": "orlop.values",
    "OrlopError": "orlop.errors",
    "Resource": "orlop.errors",
    "Session": "orlop._session",
    "connect": "orlop.client",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"orlop.{name}")
    raise AttributeError(f"module 'orlop' has no attribute {name!r}")

"""What an operator may ask of a task's shim, beside what every task does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from .runtime import Task


@dataclass(frozen=True, slots=True)
class ShimInfo:
    """A shim as a process.

    :param binary: its program; "" where it is not known
    :param runtime_binary: the program that it runs the container with; "" where it is not known
    :param pid: 0 when it is gone
    :param task_pid: the container's main process; 0 where there is none
    :param address: its socket's path
    :param protocol: what the daemon speaks with it, ``grpc`` or ``ttrpc``
    :param version: of the task service
    :param memory: bytes that are its alone, in proportion to what it shares (Pss); 0 where it is gone
    :param bundle: its folder
    :param log: its own log's path; "" where it keeps none
    :param problem: what is wrong with it; "" when it lives and answers
    """

    binary: str = ""
    runtime_binary: str = ""
    pid: int = 0
    task_pid: int = 0
    address: str = ""
    protocol: str = "grpc"
    version: str = ""
    memory: int = 0
    started_at: datetime | None = None
    bundle: str = ""
    log: str = ""
    problem: str = ""


@runtime_checkable
class ShimTask(Task, Protocol):
    """A task that can tell of its shim. A runtime without shims, or of old, need not."""

    async def shim_info(self) -> ShimInfo:
        """How the shim is; one that is gone or does not answer is told, and is no error."""
        ...

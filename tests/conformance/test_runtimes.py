"""The runtime kit over runc and crun."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.runtime import OciRuntime
from orlopd.testing.leftovers import Leftovers
from orlopd.testing.runtime import TAG, Opened, RuntimeKit
from tests.support.cgroups import crun_as_on_version_1

LOG = logging.getLogger("test")


@dataclass
class _Context:
    state: Path
    tasks: TaskGroup
    config: Any
    log: logging.Logger = LOG
    root: Path = Path("/nonexistent")

    def get(self, kind: Any, id: str = "") -> Any:
        raise NotImplementedError


def opened(binary: str) -> Callable[[Path], AbstractAsyncContextManager[OciRuntime]]:
    """How a runtime of ours is made and left."""

    @asynccontextmanager
    async def make(folder: Path) -> AsyncIterator[OciRuntime]:
        async with anyio.create_task_group() as group:
            runtime = await OciRuntime.open(binary, _Context(folder, group, OciConfig()))
            try:
                yield runtime
            finally:
                await runtime.aclose()
                group.cancel_scope.cancel()

    return make


class _Watched(RuntimeKit):
    @pytest.fixture(autouse=True)
    def watch(self, nothing_left_behind: Leftovers, folder: Path) -> None:
        nothing_left_behind.watch(folder, TAG)


class TestRunc(_Watched):
    @pytest.fixture
    def factory(self) -> Opened:
        return opened("runc")


class TestCrun(_Watched):
    @pytest.fixture
    def factory(self, tmp_path: Path) -> Opened:
        return opened(str(crun_as_on_version_1(tmp_path)))

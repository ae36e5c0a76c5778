"""The folders of checkpoints: many come and go at once, beside each other and in each other's way."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from orlopd.core.checkpoints import CRIU, Checkpoints
from orlopd.core.scope import Scope
from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.values import Descriptor, sha256

SCOPE = Scope("ns")
ROUNDS = 50
BLOB = Descriptor(CRIU, sha256(b"pages"), 5)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Store:
    """In the place of content and differ: a blob is what lay in the one file of a folder."""

    def __init__(self) -> None:
        self.saved: list[str] = []

    async def open(self, *_: Any) -> Any:
        return nullcontext(SimpleNamespace(size=5))

    async def unpack(self, blob: Any, mounts: Any) -> None:
        await anyio.lowlevel.checkpoint()
        (Path(mounts[0].source) / "pages-1.img").write_bytes(b"pages")

    async def diff(self, scope: Scope, lower: Any, upper: Any, **_: Any) -> Descriptor:
        await anyio.lowlevel.checkpoint()
        self.saved.append((Path(upper[0].source) / "pages-1.img").read_text())
        return BLOB

    async def add_blob(self, scope: Scope, ref: str, data: bytes) -> Any:
        return BLOB


class Frozen:
    """A task whose checkpoint is its name."""

    def __init__(self, id: str, *, fails: bool = False) -> None:
        self.id, self.fails = id, fails

    async def checkpoint(self, path: str, options: Any) -> None:
        (Path(path) / "pages-1.img").write_text(self.id)
        await anyio.lowlevel.checkpoint()
        if self.fails:
            raise FailedPrecondition("no CRIU")


async def test_folders_are_made_and_removed_at_once_without_a_loss(tmp_path: Path) -> None:
    """A namespace's folder goes with the last in it, while others are about to make theirs there."""
    store: Any = Store()
    checkpoints = Checkpoints(store, store, tmp_path / "checkpoints")

    async def restore(id: str) -> None:
        for _ in range(ROUNDS):
            async with checkpoints.laid_out(SCOPE, id, BLOB) as folder:
                assert (Path(folder) / "pages-1.img").read_bytes() == b"pages"
            await checkpoints.forget(SCOPE.namespace, id)

    async def save(id: str) -> None:
        for _ in range(ROUNDS):
            await checkpoints.save(SCOPE, Frozen(id), None, b"")  # type: ignore[arg-type]
            with pytest.raises(FailedPrecondition):
                await checkpoints.save(SCOPE, Frozen(id, fails=True), None, b"")  # type: ignore[arg-type]

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(restore, f"r{number}")
            group.start_soon(save, f"s{number}")
    assert sorted(store.saved) == sorted(f"s{number}" for number in range(3) for _ in range(ROUNDS))
    assert list((tmp_path / "checkpoints").glob("*")) == []


async def test_a_restore_that_is_given_up_removes_its_folder_alone(tmp_path: Path) -> None:
    store: Any = Store()
    checkpoints = Checkpoints(store, store, tmp_path / "checkpoints")
    async with checkpoints.laid_out(SCOPE, "kept", BLOB):
        pass
    with anyio.CancelScope() as scope:
        async with checkpoints.laid_out(SCOPE, "given-up", BLOB):
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert [path.name for path in (tmp_path / "checkpoints/ns").iterdir()] == ["kept"]
    await checkpoints.forget("ns", "kept")
    assert list((tmp_path / "checkpoints").glob("*")) == []

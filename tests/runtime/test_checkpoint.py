"""Checkpoint and restore: what the runtime is told, and what the real one says where CRIU cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop_plugins.oci.runtime import OciRuntime
from orlop_protos.containerd.runc.v1 import oci_pb2
from orlopd.plugin.errors import FailedPrecondition, NotFound
from orlopd.plugin.values import TypedBytes
from tests.runtime.conftest import Bench, events_of, topics
from tests.support.criu import recorder


async def test_the_real_runtime_says_what_it_lacks(bench: Bench, runtime: OciRuntime, tmp_path: Path) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "1000"))
    await task.start()
    with pytest.raises(FailedPrecondition, match=r"OCI runtime checkpoint failed: .*(?i:criu)"):
        await task.checkpoint(str(tmp_path / "image"), None)
    await task.kill(9)
    await task.wait()
    await task.delete()


async def test_a_checkpoint_is_asked_for_and_restored_from(bench: Bench, tmp_path: Path) -> None:
    bench.binary = str(recorder(tmp_path))
    image = tmp_path / "image"
    image.mkdir()
    async with bench.open() as runtime:
        task = await runtime.create(bench.spec("a", "sleep", "1000"))
        await task.start()
        options = oci_pb2.CheckpointOptions(exit=False, open_tcp=True, file_locks=True)
        packed = TypedBytes(options.DESCRIPTOR.full_name, options.SerializeToString())
        await task.checkpoint(str(image), packed)
        told = (tmp_path / "checkpoint").read_text().splitlines()
        assert told[told.index("--image-path") + 1] == str(image)
        assert {"--tcp-established", "--file-locks", "--leave-running"} <= set(told)
        assert told[-1] == "a"
        await task.kill(9)
        await task.wait()
        await task.delete()

        spec = bench.spec("b", "sleep", "1000")
        object.__setattr__(spec, "checkpoint", str(image))
        again = await runtime.create(spec)
        assert not (tmp_path / "restore").exists(), "a restore begins with the start"
        pid = await again.start()
        told = (tmp_path / "restore").read_text().splitlines()
        assert told[told.index("--image-path") + 1] == str(image)
        assert "--detach" in told
        assert told[-1] == "b"
        assert [entry.pid for entry in await again.pids()] == [pid]
        await again.kill(9)
        assert (await again.wait()).code == 137
        await again.delete()
        assert topics(await events_of(again)) == ["create", "start", "exit", "delete"]


async def test_a_restore_that_nobody_started_can_be_killed(bench: Bench, tmp_path: Path) -> None:
    bench.binary = str(recorder(tmp_path))
    async with bench.open() as runtime:
        spec = bench.spec("a", "sleep", "1000")
        object.__setattr__(spec, "checkpoint", str(tmp_path))
        task = await runtime.create(spec)
        with pytest.raises(FailedPrecondition, match="not created"):
            await task.kill(15)
        await task.kill(9, all=True)
        assert (await task.wait()).code == 137
        with pytest.raises(NotFound):
            await task.kill(9)
        await task.delete()
        assert topics(await events_of(task)) == ["create", "exit", "delete"]
        assert not (tmp_path / "restore").exists()

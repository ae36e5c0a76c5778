"""Checkpoint and restore: what the runtime is told, and what the real one says where CRIU cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop_plugins.oci.runtime import OciRuntime
from orlop_protos.containerd.runc.v1 import oci_pb2
from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.values import TypedBytes
from tests.runtime.conftest import Bench, events_of, topics

RECORDER = """#!/bin/sh
# The real runtime, but for what it cannot do here: that is written down, and a restore becomes a run.
for word; do case $word in
    checkpoint) printf '%s\\n' "$@" >{record}/checkpoint; exit 0;;
    restore)
        printf '%s\\n' "$@" >{record}/restore
        while [ "$1" != restore ]; do set -- "$@" "$1"; shift; done
        shift
        bundle= pid= id= detach=
        while [ $# -gt 0 ]; do case $1 in
            --root) root=$2; shift 2;;
            --log|--log-format) shift 2;;
            --bundle) bundle=$2; shift 2;;
            --pid-file) pid=$2; shift 2;;
            --image-path|--work-path) shift 2;;
            --detach|--no-subreaper) shift;;
            *) id=$1; shift;;
        esac; done
        exec runc --root "$root" run --detach --bundle "$bundle" --pid-file "$pid" "$id";;
esac; done
exec runc "$@"
"""


async def test_the_real_runtime_says_what_it_lacks(bench: Bench, runtime: OciRuntime, tmp_path: Path) -> None:
    task = await runtime.create(bench.spec("a", "sleep", "1000"))
    await task.start()
    with pytest.raises(FailedPrecondition, match=r"OCI runtime checkpoint failed: .*(?i:criu)"):
        await task.checkpoint(str(tmp_path / "image"), None)
    await task.kill(9)
    await task.wait()
    await task.delete()


async def test_a_checkpoint_is_asked_for_and_restored_from(bench: Bench, tmp_path: Path) -> None:
    recorder = tmp_path / "recorder"
    recorder.write_text(RECORDER.replace("{record}", str(tmp_path)))
    recorder.chmod(0o755)
    bench.binary = str(recorder)
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

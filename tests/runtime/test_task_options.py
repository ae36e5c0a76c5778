"""Which runtime a task has, and what it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orlop_plugins.oci.runtime import OciRuntime
from orlop_protos.containerd.runc.v1 import oci_pb2
from orlopd.plugin.errors import NotFound
from orlopd.plugin.values import TypedBytes
from tests.runtime.conftest import Bench, run


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """The real runtime under another name, which writes down what it is called with."""
    path = tmp_path / "recorder"
    path.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexec runc "$@"\n')
    path.chmod(0o755)
    return path


async def test_options_reach_the_runtimes_command_line(
    bench: Bench, runtime: OciRuntime, recorder: Path, tmp_path: Path
) -> None:
    options = oci_pb2.Options(
        binary_name=str(recorder), root=str(tmp_path / "root"), no_pivot_root=True, no_new_keyring=True
    )
    packed = TypedBytes(options.DESCRIPTOR.full_name, options.SerializeToString())
    task = await runtime.create(replace(bench.spec("a", "sleep", "100"), options=packed))
    assert (tmp_path / "root/test/a").is_dir()
    await task.delete()
    calls = (tmp_path / "calls").read_text().splitlines()
    (create,) = [words for words in map(str.split, calls) if "create" in words]
    assert {"--no-pivot", "--no-new-keyring"} <= set(create)
    made = [words for words in map(str.split, calls) if "--version" not in words]
    assert {words[words.index("--root") + 1] for words in made} == {str(tmp_path / "root/test")}


async def test_pipes_belong_to_the_group_that_the_options_name(bench: Bench, runtime: OciRuntime) -> None:
    """Their user is changed once more, by the runtime, to that of the process."""
    options = oci_pb2.Options(io_uid=7, io_gid=8)
    packed = TypedBytes(options.DESCRIPTOR.full_name, options.SerializeToString())
    owner = ("busybox", "stat", "-L", "-c", "%u %g", "/proc/self/fd/1", "/proc/self/fd/2")
    assert await run(runtime, replace(bench.spec("a", *owner), options=packed)) == (b"0 8\n0 8\n", b"", 0)
    assert await run(runtime, bench.spec("b", *owner)) == (b"0 0\n0 0\n", b"", 0)


async def test_any_runtime_can_be_named_by_its_path(
    bench: Bench, runtime: OciRuntime, recorder: Path, tmp_path: Path
) -> None:
    assert await run(runtime, replace(bench.spec("a", "echo", "hi"), runtime=str(recorder))) == (
        b"hi\n", b"", 0
    )  # fmt: skip
    assert " create " in (tmp_path / "calls").read_text()
    with pytest.raises(NotFound, match="is not there"):
        await runtime.create(replace(bench.spec("a", "true"), runtime=str(tmp_path / "nosuch")))

"""Where a task's streams may go beside attached clients: files, log drivers and FIFOs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest

from orlop_plugins.oci.attachment import ShimAttachment
from orlop_plugins.oci.client import GrpcClient, TtrpcShimClient
from orlop_plugins.oci.runtime import OciRuntime
from orlop_protos.orlop.shim.v1 import shim_pb2
from orlopd.plugin.errors import NotFound
from orlopd.plugin.runtime import Exit, Output, Stdin, Stdio
from tests.runtime.conftest import Bench, read_all, run

DRIVER = """#!/bin/sh
# A log driver by containerd's contract; its arguments are "to FOLDER".
echo "$CONTAINER_NAMESPACE/$CONTAINER_ID" >"$2/who"
: >"$2/out"; : >"$2/err"
exec 5>&-
cat <&3 >"$2/out" & cat <&4 >"$2/err"
wait
"""


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    path = tmp_path / "driver"
    path.write_text(DRIVER)
    path.chmod(0o755)
    return path


async def holds(path: Path, wanted: bytes) -> None:
    """Wait until a file holds this and nothing else."""
    with anyio.fail_after(30):
        while await anyio.Path(path).read_bytes() != wanted:  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_a_file_is_appended_to(bench: Bench, runtime: OciRuntime, tmp_path: Path) -> None:
    file = tmp_path / "deep/er"
    stdio = Stdio(stdout=f"file://{file}", stderr=f"file://{file}")
    for name in ("a", "b"):
        task = await runtime.create(bench.spec(name, "sh", "-c", f"echo {name}; exit 3", stdio=stdio))
        await task.start()
        assert (await task.wait()).code == 3
        await task.delete()
    assert file.read_bytes() == b"a\nb\n"


@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "pty"])
async def test_a_log_driver_gets_all_and_is_told_whose_it_is(
    bench: Bench, runtime: OciRuntime, tmp_path: Path, driver: Path, terminal: bool
) -> None:
    uri = f"binary://{driver}?to={tmp_path}"
    stdio = Stdio(stdout=uri, stderr="" if terminal else uri, terminal=terminal)
    task = await runtime.create(bench.spec("a", "sh", "-c", "seq 20000; echo bad >&2; exit 4", stdio=stdio))
    await task.start()
    assert (await task.wait()).code == 4
    await task.delete()
    end = b"\r\n" if terminal else b"\n"
    numbers = end.join(b"%d" % number for number in range(1, 20001)) + end
    await holds(tmp_path / "out", numbers + (b"bad" + end if terminal else b""))
    await holds(tmp_path / "err", b"" if terminal else b"bad\n")
    assert (tmp_path / "who").read_text() == "test/a\n"


async def test_a_log_driver_that_is_not_there_is_told_as_such(
    bench: Bench, runtime: OciRuntime, tmp_path: Path
) -> None:
    stdio = Stdio(stdout=f"binary://{tmp_path}/nosuch")
    with pytest.raises(NotFound, match="log driver"):
        await runtime.create(bench.spec("a", "true", stdio=stdio))


async def test_a_log_driver_beside_attached_clients(
    bench: Bench, runtime: OciRuntime, tmp_path: Path, driver: Path
) -> None:
    stdio = Stdio(stdout=f"binary://{driver}?to={tmp_path}", attach=True)
    assert await run(runtime, bench.spec("a", "sh", "-c", "echo both; exit 5", stdio=stdio)) == (
        b"both\n",
        b"",
        5,
    )
    await holds(tmp_path / "out", b"both\n")


async def test_fifos_of_a_client_and_attached_ones_get_the_same(
    bench: Bench, runtime: OciRuntime, tmp_path: Path
) -> None:
    stdin, stdout = str(tmp_path / "stdin"), str(tmp_path / "stdout")
    for path in (stdin, stdout):
        os.mkfifo(path)
    task = await runtime.create(bench.spec("a", "cat", stdio=Stdio(stdin=stdin, stdout=stdout, attach=True)))
    reading = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(stdin, os.O_WRONLY)
    try:
        async with task.attach() as attachment:
            await task.start()
            os.write(writing, b"through a FIFO\n")
            os.close(writing)
            writing = -1
            await task.close_stdin()
            said, _, end = await read_all(attachment)
        assert said == b"through a FIFO\n"
        assert end is not None
        await task.delete()  # by when all sinks have what is theirs
        assert os.read(reading, 100) == said
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


@pytest.mark.parametrize("way", ["ttrpc", "grpc", "earlier"])
async def test_whoever_attaches_to_a_shim_may_speak_either_protocol(
    bench: Bench, runtime: OciRuntime, way: str
) -> None:
    """Earlier versions' shims are asked by ttrpc where they speak gRPC."""
    spec = bench.spec("a", "sh", "-c", "cat; exit 5", stdio=Stdio(attach=True, hold_stdin=True))
    task = await runtime.create(spec)
    address = json.loads((bench.folder("a") / "task.json").read_bytes())["address"]
    client = GrpcClient(address) if way == "grpc" else TtrpcShimClient(address)
    if isinstance(client, TtrpcShimClient):
        client._has_streams = way == "ttrpc"  # pyright: ignore[reportPrivateUsage]
    try:
        with pytest.raises(NotFound):
            await client.attach(shim_pb2.AttachOptions(id="a", exec_id="none"))
        call, first = await client.attach(shim_pb2.AttachOptions(id="a", stdin=True))
        attachment = ShimAttachment(call, first.terminal, stdin=True)
        await task.start()
        await attachment.send(Stdin(b"x" * (3 << 20), end=True))
        heard, end = b"", None
        async for item in attachment.output():
            if isinstance(item, Output):
                heard += item.data
            else:
                end = item
        call.close()
        assert heard == b"x" * (3 << 20)
        assert isinstance(end, Exit)
        assert end.code == 5
        threads = len(os.listdir(f"/proc/{bench.shim_pid('a')}/task"))  # noqa: PTH208
        assert (threads == 1) is (way == "ttrpc"), "gRPC's threads are there when it was spoken"
    finally:
        await client.close()
    await task.delete()

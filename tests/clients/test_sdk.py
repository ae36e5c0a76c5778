"""The SDK: async, and the same without."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC
from pathlib import Path
from typing import Any

import anyio
import pytest

import orlop
from orlop import errors, values
from orlop._address import default_address, grpc_target
from orlop.values import ContainerSpec
from orlopd.config import paths
from tests.clients.conftest import ROOT, engine_process


@pytest.fixture
async def client(world: Any) -> AsyncIterator[orlop.Client]:
    async with orlop.connect(world.address, namespace=world.namespace) as client:
        yield client


def spec(*args: str, **settings: Any) -> ContainerSpec:
    return ContainerSpec(image="any", args=args, **settings)


async def test_pull_tells_what_it_resolved_then_progress_then_the_image(client: orlop.Client) -> None:
    steps = [step async for step in client.images.pull("alpine")]
    assert isinstance(steps[0], values.Resolved)
    assert isinstance(steps[-1], values.Image)
    assert steps[-1].created_at is not None
    assert steps[-1].created_at.tzinfo is UTC
    blobs = [step for step in steps if isinstance(step, values.BlobProgress)]
    assert len(blobs) == len(steps) - 2
    assert {step.kind for step in blobs} == {values.BlobKind.LAYER, values.BlobKind.MANIFEST}
    assert blobs[-1].state == values.BlobState.UNPACKED
    assert {step.rate for step in blobs if step.state == values.BlobState.FETCHING} == {3 << 20}


async def test_push_tells_what_will_be_pointed_at_then_progress_then_that_it_is(client: orlop.Client) -> None:
    steps = [step async for step in client.images.push("alpine", "localhost:5000/alpine:1")]
    assert isinstance(steps[0], values.Resolved)
    assert isinstance(steps[-1], values.Pushed)
    assert steps[-1].name == "localhost:5000/alpine:1"
    assert {type(step) for step in steps[1:-1]} == {values.BlobProgress}
    with pytest.raises(errors.NotFound):
        _ = [step async for step in client.images.push("missing")]


async def test_referrers_are_values(client: orlop.Client) -> None:
    found = await client.images.referrers("alpine")
    assert found.listed[0].digest == found.subject
    assert found.listed[0].annotations == {"k": "v"}


async def test_leaving_a_pull_cancels_it(client: orlop.Client) -> None:
    pull = client.images.pull("slow")
    async for step in pull:
        if isinstance(step, values.BlobProgress) and step.state == values.BlobState.FETCHING:
            break
    await pull.aclose()
    assert await client.images.list() == ()


async def test_a_session_from_first_to_last(client: orlop.Client) -> None:
    async with client.containers.run(spec("cat", stdin=True, name="box")) as session:
        await session.ready()
        assert (session.name, session.pid, session.exit) == ("box", 42, None)
        await session.write(b"hello")
        await session.close_stdin()
        output = [piece async for piece in session]
    assert output == [values.Output(b"hello", values.LogStream.STDOUT)]
    assert session.exit is not None
    assert session.exit.code == 0


async def test_large_input_is_cut_into_chunks(client: orlop.Client) -> None:
    async with client.containers.run(spec("count", stdin=True)) as session:
        await session.write(b"x" * 40_000_000)
        await session.close_stdin()
        assert b"".join([piece.data async for piece in session]) == b"40000000\n"


async def test_events_of_a_run_in_their_order(client: orlop.Client) -> None:
    async with client.containers.run(dataclasses.replace(spec("echo", "hi"), image="pulled")) as session:
        kinds = [type(event) async for event in session.events()]
    assert list(dict.fromkeys(kinds)) == [
        values.BlobProgress,
        values.Created,
        values.Started,
        values.Output,
        values.Exit,
    ]


async def test_resize_signal_and_detach(client: orlop.Client) -> None:
    async with client.containers.run(spec("cat", stdin=True, terminal=True)) as session:
        await session.resize(100, 30)
        await session.signal("SIGUSR1")
        seen = b""
        async for piece in session:
            seen += piece.data
            if seen == b"size 30 100\r\nsignal USR1\n":
                await session.detach()
    assert session.detached
    [container] = await client.containers.list()
    assert container.state == values.ContainerState.RUNNING


async def test_writing_to_a_session_that_has_ended(client: orlop.Client) -> None:
    async with client.containers.run(spec("exit", "3")) as session:
        assert (await session.wait()).code == 3
        with pytest.raises(errors.SessionClosed):
            await session.write(b"too late")


async def test_a_write_that_comes_too_late_costs_neither_output_nor_exit(client: orlop.Client) -> None:
    async def chatter(session: orlop.Session) -> None:
        while True:
            await session.write(b"more" * 5000)

    for _ in range(10):
        async with client.containers.run(spec("burst", stdin=True)) as session:
            await session.ready()
            with pytest.raises(errors.SessionClosed):
                await chatter(session)
            received = sum([len(piece.data) async for piece in session])
        assert received == 40_000
        assert session.exit is not None
        assert session.exit.code == 6


async def test_readers_and_writers_in_tasks_of_their_own(client: orlop.Client) -> None:
    received = 0
    async with client.containers.run(spec("cat", stdin=True)) as session, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(session.write, b"x" * 1000)
        async for piece in session:
            received += len(piece.data)
            if received == 20_000:
                await session.close_stdin()
    assert received == 20_000


async def test_attach_and_exec(client: orlop.Client) -> None:
    async with client.containers.run(spec("cat", name="box", stdin=True), detach=True) as session:
        await session.ready()
    async with client.containers.attach("box") as session:
        await session.ready()
        assert session.terminal is False
        await session.write(b"exit 9")
        assert (await session.wait()).code == 9
    async with client.containers.run(spec("stubborn", name="other"), detach=True) as session:
        await session.ready()
    async with client.containers.exec("other", ["echo", "a"]) as session:
        assert (await session.wait()).code == 0
        assert session.exec_id == "exec-other"


async def test_errors_say_all_there_is_to_say(client: orlop.Client) -> None:
    with pytest.raises(errors.NotFound) as caught:
        await client.containers.get("nobody")
    error = caught.value
    assert (error.code, error.reason, error.message) == (
        "NOT_FOUND",
        "CONTAINER_NOT_FOUND",
        'no container "nobody"',
    )
    assert error.hint == "`orlop ps -a` lists them"
    assert error.resource == orlop.Resource("container", "nobody")
    assert error.metadata == {"a": "b"}


@pytest.mark.parametrize(
    ("program", "error"), [("nothing", errors.CommandNotFound), ("README", errors.CommandNotExecutable)]
)
async def test_commands_that_cannot_run_have_errors_of_their_own(
    client: orlop.Client, program: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        async with client.containers.run(spec(program)) as session:
            await session.wait()


async def test_an_import_tells_of_the_unpacking(client: orlop.Client) -> None:
    async def archive() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000

    told: list[values.BlobProgress] = []
    [image] = await client.images.import_(archive(), name="mine", progress=told.append)
    assert image.name == "mine"
    assert {each.state for each in told} >= {values.BlobState.UNPACKING, values.BlobState.UNPACKED}
    assert await client.images.import_(archive(), name="mine") == (image,)


async def test_a_failing_source_of_bytes_is_told_as_it_is(client: orlop.Client) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await client.images.import_(broken())


async def test_an_upload_that_is_refused_midway_says_why(client: orlop.Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"bad"
        for _ in range(100):
            yield b"x" * 1_000_000

    with pytest.raises(errors.InvalidArgument, match="truncated"):
        await client.images.import_(endless())


async def test_no_daemon(tmp_path: Path) -> None:
    async with orlop.connect(f"unix://{tmp_path}/none") as client:
        with pytest.raises(errors.CannotConnect, match="no such file") as caught:
            await client.system.version()
        assert caught.value.reason == "SOCKET_MISSING"
        with pytest.raises(errors.CannotConnect):
            async with client.containers.run(spec("echo")) as session:
                await session.wait()
        with pytest.raises(errors.CannotConnect):
            async for _ in client.system.events():
                pass


async def test_a_daemon_that_goes_away_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    with engine_process(tmp_path) as (process, address):
        async with orlop.connect(address) as client, client.containers.run(spec("stubborn")) as session:
            await session.ready()
            process.kill()
            with pytest.raises(errors.CannotConnect):
                await session.wait()


def test_a_spec_names_one_source() -> None:
    with orlop.sync.connect("unix:///nowhere") as client:
        with pytest.raises(ValueError, match="given: none"):
            client.containers.run(ContainerSpec())
        with pytest.raises(ValueError, match="image and rootfs"):
            client.containers.run(ContainerSpec(image="a", rootfs="/r"))


def test_specs_survive_the_way_to_the_daemon_and_back(world: Any) -> None:
    full = ContainerSpec(
        rootfs="/r",
        args=("a",),
        name="full",
        entrypoint=(),
        env=("A=1",),
        labels={"k": "v"},
        mounts=(
            values.Mount("/t", type=values.MountType.TMPFS, options=("size=1m",)),
            values.Mount("/b", "/s"),
            values.Mount("/v", "name", values.MountType.VOLUME),
        ),
        network=values.Network.HOST,
        resources=values.Resources(1, 2, 3),
        cap_add=("ALL",),
        auto_remove=True,
        platform=values.Platform("linux", "arm64", "v8"),
        hooks=(values.Hook(values.HookStage.POSTSTOP, "/h", ("h", "x"), ("A=1",), 5),),
    )
    with orlop.sync.connect(world.address, namespace=world.namespace) as client:
        assert client.containers.create(full).spec == full


def test_the_sync_face(world: Any) -> None:
    with orlop.sync.connect(world.address, namespace=world.namespace) as client:
        assert client.system.version().version == "9.8.7"
        assert isinstance(list(client.images.pull("a"))[-1], values.Image)
        with client.containers.run(spec("cat", stdin=True)) as session:
            session.write(b"x")
            session.close_stdin()
            assert [piece.data for piece in session] == [b"x"]
            assert session.exit is not None
            assert session.exit.code == 0
        assert client.images.import_(archive=[b"a", b"b"], name="n")[0].name == "n"
        for _ in client.system.events():
            break
        with pytest.raises(errors.NotFound):
            client.containers.get("nobody")
        with pytest.raises(AttributeError):
            _ = client.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_types_of_the_sync_face_are_those_of_the_async_api() -> None:
    stub = ROOT / "clients" / "python" / "sync_stub.py"
    done = subprocess.run([sys.executable, stub, "--check"], check=False)
    assert done.returncode == 0, f"orlop/sync.pyi is not up to date: run {stub.relative_to(ROOT)}"


def test_an_unknown_value_of_a_newer_daemon_is_no_error() -> None:
    from orlop import _container_messages, _image_messages
    from orlop_protos.orlop.engine.v1 import containers_pb2, images_pb2

    strange = images_pb2.BlobProgress.FromString(b"\x10\x63\x18\x63")
    assert _image_messages.progress(strange).state == values.BlobState.UNSPECIFIED
    container = containers_pb2.Container.FromString(b"\x20\x63")
    assert _container_messages.container(container).state == values.ContainerState.UNSPECIFIED


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grpc_target("unix:///run/s") == "unix:/run/s"
    assert grpc_target("/run/s") == "unix:/run/s"
    assert grpc_target("tcp://host:1") == "host:1"
    assert grpc_target("[::1]:80") == "[::1]:80"
    for bad in ("host", "host:", ":1", "host:port", "http://host:1", "unix://", "unix:///" + "x" * 108):
        with pytest.raises(errors.InvalidArgument):
            grpc_target(bad)
    monkeypatch.delenv("ORLOP_ADDRESS", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_address() == "unix:///run/orlop/orlop.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/x")
    assert default_address() == "unix:///x/orlop/orlop.sock"
    monkeypatch.setenv("ORLOP_ADDRESS", "unix:///mine")
    assert default_address() == "unix:///mine"


@pytest.mark.parametrize(
    ("given", "login", "expected"),
    [
        ("/x", True, "/x"),
        ("", True, "{run}/12345"),
        (None, True, "{run}/12345"),
        ("relative", True, "{run}/12345"),
        (None, False, "/tmp/orlop-12345"),
        (None, "somebody else's", "/tmp/orlop-12345"),
        (None, "a link", "/tmp/orlop-12345"),
    ],
)
def test_client_and_daemon_agree_where_a_users_socket_is(
    given: str | None, login: Any, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "12345"
    if login == "a link":
        folder.symlink_to("/tmp")
        os.lchown(folder, 12345, -1)
    elif login:
        folder.mkdir()
        os.chown(folder, 12345 if login is True else 12346, -1)
    monkeypatch.delenv("ORLOP_ADDRESS", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if given is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr("orlop._address.RUN_USER", tmp_path)
    monkeypatch.setattr("orlopd.config.paths.RUN_USER", tmp_path)
    state = paths.default_state()
    assert str(state) == expected.format(run=tmp_path) + "/orlop"
    assert default_address() == f"unix://{state}/orlop.sock"

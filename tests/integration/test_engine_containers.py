"""The engine's containers through the engine API: everything between create and remove."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import shutil
import socket
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from orlop import errors
from orlop.values import (
    Container,
    ContainerSpec,
    ContainerState,
    Exit,
    Hook,
    HookStage,
    Mount,
    MountType,
    Network,
    OnCancel,
    Output,
    Resources,
)
from orlop_protos.orlop.engine.v1 import containers_pb2, containers_pb2_grpc, stream_pb2
from tests.support.daemon import Daemon, eventually

# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def client(daemon: Daemon, image: str) -> AsyncIterator[Any]:
    """A client in a namespace that must be empty of containers, tasks and snapshots of theirs afterwards."""
    async with daemon.connect() as connected:
        yield connected
        for container in await connected.containers.list():
            await connected.containers.remove(container.id, force=True)
    assert not daemon.ctr("tasks", "ls", "-q").stdout
    if "Active" in daemon.must(daemon.ctr("snapshots", "ls")):
        # What another client prepared goes with the next collection, which this waits for.
        daemon.must(daemon.ctr("leases", "create", "--id", "collect"))
        daemon.must(daemon.ctr("leases", "delete", "--sync", "collect"))
        assert "Active" not in daemon.must(daemon.ctr("snapshots", "ls"))
    left = eventually(
        lambda: [each.name for each in (daemon.root / "containers").glob(f"{daemon.namespace}/*")],
        lambda found: not found,
        3,
    )
    assert left == []


@asynccontextmanager
async def running(client: Any, *args: str, **spec: Any) -> AsyncIterator[Container]:
    """A container that runs for the length of the block."""
    wanted = ContainerSpec(image="probe", args=args or ("sleep", "1000"), **spec)
    async with client.containers.run(wanted, detach=True) as session:
        await session.ready()
    try:
        yield (await client.containers.get(session.id)).container
    finally:
        with anyio.CancelScope(shield=True):
            with suppress(errors.NotFound):
                await client.containers.remove(session.id, force=True)


async def said(session: Any) -> tuple[str, int]:
    """What a session's process wrote and its exit code."""
    async with session:
        text = b"".join([each.data async for each in session]).decode()
        return text, session.exit.code


async def run(client: Any, *args: str, **spec: Any) -> tuple[str, int]:
    """Run a container to its end."""
    return await said(
        client.containers.run(ContainerSpec(image="probe", args=args, auto_remove=True, **spec))
    )


def reason(caught: pytest.ExceptionInfo[errors.OrlopError]) -> str:
    return caught.value.reason


# --- Create


async def test_the_same_idempotency_key_makes_one_container(client: Any) -> None:
    spec = ContainerSpec(image="probe", args=["true"])
    first = await client.containers.create(spec, idempotency_key="once")
    assert (await client.containers.create(spec, idempotency_key="once")).id == first.id
    assert (await client.containers.create(spec, idempotency_key="twice")).id != first.id


async def test_many_at_once_with_one_key_make_one_container(client: Any) -> None:
    made: list[str] = []

    async def create() -> None:
        spec = ContainerSpec(image="probe", args=["true"])
        made.append((await client.containers.create(spec, idempotency_key="together")).id)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(create)
    assert len(set(made)) == 1


async def test_a_name_is_taken_once_and_made_up_otherwise(client: Any) -> None:
    named = await client.containers.create(ContainerSpec(image="probe", args=["true"], name="mine"))
    assert named.name == "mine"
    with pytest.raises(errors.AlreadyExists) as caught:
        await client.containers.create(ContainerSpec(image="probe", args=["true"], name="mine"))
    assert reason(caught) == "NAME_TAKEN"
    unnamed = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
    assert unnamed.name.count("-") == 1
    for reference in (named.id, named.id[:8], "mine"):
        assert (await client.containers.get(reference)).container.id == named.id


async def test_a_beginning_that_two_ids_have_is_refused(client: Any) -> None:
    made: dict[str, str] = {}
    while True:
        container = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
        if container.id[0] in made:
            break
        made[container.id[0]] = container.id
    with pytest.raises(errors.InvalidArgument) as caught:
        await client.containers.get(container.id[0])
    assert reason(caught) == "AMBIGUOUS_ID"


def probe(**spec: Any) -> dict[str, Any]:
    return {"image": "probe", "args": ["true"], **spec}


@pytest.mark.parametrize(
    ("spec", "error", "why"),
    [
        ({"image": "nosuch", "args": ["true"]}, errors.NotFound, "IMAGE_NOT_FOUND"),
        ({"rootfs": "/no/such/root", "args": ["true"]}, errors.NotFound, "ROOTFS_NOT_FOUND"),
        ({"bundle": "/no/such/bundle"}, errors.NotFound, "BUNDLE_NOT_FOUND"),
        ({"scratch": True}, errors.InvalidArgument, "NO_COMMAND"),
        (probe(user="nobody-here"), errors.InvalidArgument, "UNKNOWN_USER"),
        (probe(user="4294967296"), errors.InvalidArgument, "USER_OUT_OF_RANGE"),
        (probe(runtime="nosuch"), errors.NotFound, "NOT_FOUND"),
        (probe(stop_signal="SIGNOT"), errors.InvalidArgument, "UNKNOWN_SIGNAL"),
        (probe(labels={"orlop/name": "x"}), errors.InvalidArgument, "RESERVED_LABEL"),
        (probe(cap_add=["nonsense"]), errors.InvalidArgument, "UNKNOWN_CAPABILITY"),
        (probe(mounts=[Mount("/x", "/no/such")]), errors.NotFound, "MOUNT_SOURCE_NOT_FOUND"),
        (probe(working_dir="/proc/self/fd/7"), errors.InvalidArgument, "WORKING_DIRECTORY_REFUSED"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_reason(
    client: Any, spec: dict[str, Any], error: type[errors.OrlopError], why: str
) -> None:
    with pytest.raises(error) as caught:
        await client.containers.create(ContainerSpec(**spec))
    assert reason(caught) == why
    assert await client.containers.list() == ()


async def test_lists_are_filtered_paged_and_masked(daemon: Daemon, client: Any) -> None:
    made = [
        await client.containers.create(ContainerSpec(image="probe", args=["true"], labels={"n": str(number)}))
        for number in range(5)
    ]
    assert [each.id for each in await client.containers.list()] == [each.id for each in reversed(made)]
    assert [each.id for each in await client.containers.list(["labels.n==3"])] == [made[3].id]
    assert await client.containers.list(states=[ContainerState.RUNNING]) == ()
    with daemon.channel() as channel:
        stub: Any = containers_pb2_grpc.ContainerServiceStub(channel)
        metadata = [("containerd-namespace", daemon.namespace)]
        pages: list[list[str]] = []
        request = containers_pb2.ListContainersRequest(page_size=2)
        request.read_mask.paths.append("name")
        while True:
            answer = stub.ListContainers(request, metadata=metadata)
            assert not any(each.id for each in answer.containers)
            pages.append([each.name for each in answer.containers])
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sum(pages, []) == [each.name for each in reversed(made)]  # noqa: RUF017


# --- Run


async def test_output_and_exit_code_come_back(client: Any) -> None:
    assert await run(client, "sh", "-c", "echo out; echo err >&2; exit 7") in {
        ("out\nerr\n", 7),
        ("err\nout\n", 7),
    }


async def test_input_goes_in_and_its_end_too(client: Any) -> None:
    session = client.containers.run(ContainerSpec(image="probe", args=["cat"], stdin=True, auto_remove=True))
    async with session:
        await session.write(b"a" * 3_000_000)
        await session.close_stdin()
        assert sum([len(each.data) async for each in session]) == 3_000_000
        assert session.exit.code == 0


async def test_without_stdin_the_process_reads_the_end_of_file(client: Any) -> None:
    assert await run(client, "cat") == ("", 0)


async def test_who_hears_of_the_end_finds_a_container_that_removes_itself_gone(client: Any) -> None:
    for _ in range(3):
        await run(client, "true")
        assert await client.containers.list() == ()


@pytest.mark.parametrize(
    ("command", "error"), [("nosuch", errors.CommandNotFound), ("/etc/passwd", errors.CommandNotExecutable)]
)
async def test_a_container_that_cannot_be_started_is_removed_again(
    client: Any, command: str, error: type[errors.OrlopError]
) -> None:
    async with client.containers.run(ContainerSpec(image="probe", args=[command])) as session:
        with pytest.raises(error):
            await session.wait()
    assert await client.containers.list() == ()


@pytest.mark.parametrize("on_cancel", list(OnCancel))
async def test_cancelling_a_run_does_what_it_was_told(client: Any, on_cancel: OnCancel) -> None:
    spec = ContainerSpec(image="probe", args=["sleep", "1000"])
    async with client.containers.run(spec, on_cancel=on_cancel) as session:
        await session.ready()
    if on_cancel is OnCancel.KILL:
        with anyio.fail_after(10):
            assert (await client.containers.wait(session.id)).code == 137
    else:
        await anyio.sleep(0.5)
        (found,) = await client.containers.list()
        assert found.state is ContainerState.RUNNING


async def test_a_signal_of_the_stream_reaches_the_process(client: Any) -> None:
    script = "trap 'echo caught; exit 4' USR1; echo ready; while :; do sleep 0.05; done"
    async with client.containers.run(ContainerSpec(image="probe", args=["sh", "-c", script])) as session:
        seen = b""
        async for output in session:
            seen += output.data
            if seen == b"ready\n":
                await session.signal("USR1")
        assert (seen, session.exit.code) == (b"ready\ncaught\n", 4)


async def test_limits_identity_and_places_are_as_asked(client: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    script = (
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max"
        " /sys/fs/cgroup/cpu/cpu.cfs_quota_us /proc/sys/kernel/hostname /data/file;"
        "touch /data/x || echo ro; touch /x || echo ro root; touch /mem/x && echo rw;"
        "id -u; pwd; echo $HOME $A; ls /sys/class/net"
    )
    text, code = await run(
        client,
        "sh", "-c", script + " 2>/dev/null",
        resources=Resources(32 << 20, 500_000_000, 40),
        hostname="boat",
        mounts=[Mount("/data", str(tmp_path), read_only=True), Mount("/mem", type=MountType.TMPFS)],
        read_only=True,
        user="0:0",
        working_dir="/mem",
        env=["A=1"],
    )  # fmt: skip
    lines = [line for line in text.splitlines() if "Read-only" not in line]
    assert lines == [
        *(str(32 << 20), "40", "50000", "boat", "from the host"),
        *("ro", "ro root", "rw", "0", "/mem", "/root 1", "lo"),
    ]
    assert code == 0


async def test_a_named_volume_outlives_its_containers_and_goes_when_nobody_has_it(
    client: Any, daemon: Daemon
) -> None:
    name = f"v{secrets.token_hex(4)}"
    mount = Mount("/keep", name, MountType.VOLUME)
    text, code = await run(client, "sh", "-c", "ls -A /keep; echo once >/keep/file", mounts=[mount])
    assert (text, code) == ("", 0)
    made = await client.containers.create(
        ContainerSpec(image="probe", name=f"has-{name}", mounts=[replace(mount, read_only=True)])
    )
    (volume,) = (each for each in await client.volumes.list() if each.name == name)
    assert volume.containers == (made.name,)
    assert (await client.containers.get(made.id)).container.spec.mounts[0].source == name
    with pytest.raises(errors.FailedPrecondition, match=made.name) as caught:
        await client.volumes.remove(name)
    assert caught.value.reason == "VOLUME_IN_USE"
    await client.containers.remove(made.id)
    assert daemon.must(daemon.orlop("volume", "ls")).splitlines()[1].split() == [name, "-", volume.path]
    assert (
        daemon.must(daemon.orlop("run", "--rm", "-v", f"{name}:/x:ro", "probe", "cat", "/x/file")) == "once\n"
    )
    assert daemon.must(daemon.orlop("volume", "rm", name)) == f"{name}\n"
    assert not Path(volume.path).exists()
    with pytest.raises(errors.NotFound):
        await client.volumes.remove(name)


async def test_a_volume_of_a_container_that_could_not_be_made_is_not_left(client: Any) -> None:
    mounts = [Mount("/keep", "unmade", MountType.VOLUME), Mount("/no", "/nonexistent/source")]
    with pytest.raises(errors.NotFound):
        await client.containers.create(ContainerSpec(image="probe", mounts=mounts))
    for wrong in ("../up", "/etc", "", "a/b", ".hidden"):
        with pytest.raises(errors.InvalidArgument):
            await client.containers.create(
                ContainerSpec(image="probe", mounts=[Mount("/keep", wrong, MountType.VOLUME)])
            )
    assert "unmade" not in {each.name for each in await client.volumes.list()}


async def test_hooks_run_at_their_points_of_a_containers_life(client: Any, tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = tmp_path / "hook"
    program.write_text(f'#!/bin/sh\necho "$1 $A $(cat)" >>{told}\n')
    program.chmod(0o755)
    stages = (HookStage.CREATE_RUNTIME, HookStage.POSTSTART, HookStage.POSTSTOP)
    hooks = [Hook(stage, str(program), ("hook", stage.value), ("A=1", "PATH=/bin"), 10) for stage in stages]
    assert (await run(client, "true", hooks=hooks))[1] == 0
    lines = told.read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [[stage.value, "1"] for stage in stages]
    assert all(json.loads(line.split(" ", 2)[2])["bundle"] for line in lines)
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(errors.FailedPrecondition, match="hook"):
        await run(client, "true", hooks=hooks[:1])
    for wrong in (Hook(HookStage.POSTSTOP, "relative"), Hook(HookStage.POSTSTOP, "/h", timeout=-1)):
        with pytest.raises(errors.InvalidArgument):
            await client.containers.create(ContainerSpec(image="probe", hooks=[wrong]))


async def test_the_hosts_network_is_the_hosts(client: Any) -> None:
    text, _ = await run(client, "cat", "/proc/net/dev", network=Network.HOST)
    inside = {line.split(":")[0].strip() for line in text.splitlines() if ":" in line}
    assert inside == {name for _, name in socket.if_nameindex()}


async def test_cve_2022_24769_no_capability_is_inherited(client: Any) -> None:
    text, _ = await run(client, "cat", "/proc/self/status")
    sets = {line.split()[0]: int(line.split()[1], 16) for line in text.splitlines() if line.startswith("Cap")}
    assert (sets["CapInh:"], sets["CapAmb:"]) == (0, 0)
    assert sets["CapEff:"]


async def test_cve_2026_31431_the_kernels_crypto_is_out_of_reach(client: Any) -> None:
    """With a Python that asks for a socket of AF_ALG, whose domain may have garbage above its 32 bits."""
    program = (
        "import ctypes, errno\n"
        "call = ctypes.CDLL(None, use_errno=True).syscall\n"
        "for domain, kind in ((38, 5), (38 | 1 << 32, 5), (1, 1)):\n"
        "    fd = call(ctypes.c_long(41), ctypes.c_long(domain), ctypes.c_long(kind), ctypes.c_long(0))\n"
        "    print(fd >= 0, errno.errorcode.get(ctypes.get_errno()) if fd < 0 else '')\n"
    )
    bases = {"/usr", "/lib", "/lib64", sys.base_prefix}
    mounts = [Mount(each, each, read_only=True) for each in sorted(bases) if Path(each).is_dir()]
    python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    text, code = await run(client, python, "-c", program, mounts=mounts)
    assert (text.splitlines(), code) == (["False EPERM", "False EPERM", "True "], 0)


# --- Other roots


async def test_a_directory_is_the_root_itself(client: Any, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "bin/sh")
    spec = ContainerSpec(rootfs=str(tmp_path), args=["/bin/sh", "-c", "echo stays > /made"], auto_remove=True)
    assert await said(client.containers.run(spec)) == ("", 0)
    assert (tmp_path / "made").read_text() == "stays\n"
    assert not (tmp_path / "etc").exists(), "files of the daemon's are bound only over what is there"


async def tar(**files: str) -> AsyncIterator[bytes]:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, source in files.items():
            archive.add(source, name.replace("_", "/"))
    yield data.getvalue()


async def test_nothing_and_a_program_copied_in_is_enough(client: Any) -> None:
    made = await client.containers.create(ContainerSpec(scratch=True, args=["/bin/busybox", "echo", "hello"]))
    size = Path("/bin/busybox").stat().st_size
    assert await client.containers.copy_in(made.id, tar(bin_busybox="/bin/busybox")) == size
    assert await said(client.containers.start(made.id, attach=True)) == ("hello\n", 0)


async def test_nothing_is_copied_into_what_runs_or_is_no_snapshot(client: Any, tmp_path: Path) -> None:
    async with running(client) as container:
        with pytest.raises(errors.FailedPrecondition) as caught:
            await client.containers.copy_in(container.id, tar(x="/etc/hostname"))
        assert reason(caught) == "CONTAINER_RUNNING"
    made = await client.containers.create(ContainerSpec(rootfs=str(tmp_path), args=["/x"]))
    with pytest.raises(errors.FailedPrecondition) as caught:
        await client.containers.copy_in(made.id, tar(x="/etc/hostname"))
    assert reason(caught) == "ROOT_IS_A_DIRECTORY"
    assert list(tmp_path.iterdir()) == []


async def test_a_bundle_runs_as_it_is(client: Any, tmp_path: Path) -> None:
    made = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
    spec = json.loads((await client.containers.get(made.id)).oci_spec)
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "rootfs/bin/busybox")
    spec["process"]["args"] = ["/bin/busybox", "echo", "from the bundle"]
    spec["linux"]["cgroupsPath"] += "-bundle"
    spec["mounts"] = [each for each in spec["mounts"] if each["type"] != "bind"]
    (tmp_path / "config.json").write_text(json.dumps(spec))
    wanted = ContainerSpec(bundle=str(tmp_path), auto_remove=True)
    assert await said(client.containers.run(wanted)) == ("from the bundle\n", 0)


# --- Life


async def test_a_container_that_was_never_started(client: Any) -> None:
    made = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
    assert made.state is ContainerState.CREATED
    with pytest.raises(errors.FailedPrecondition) as caught:
        await client.containers.wait(made.id)
    assert reason(caught) == "CONTAINER_NOT_STARTED"
    assert await client.containers.stop(made.id) is None


async def test_stop_asks_and_kills_when_the_time_is_over(client: Any) -> None:
    polite = "trap 'exit 3' TERM; while :; do sleep 0.05; done"
    async with running(client, "sh", "-c", polite) as container:
        await anyio.sleep(0.3)
        ended = await client.containers.stop(container.id, timeout=10)
        assert isinstance(ended, Exit)
        assert ended.code == 3
    async with running(client) as container:  # the first process of a pid namespace ignores SIGTERM
        with anyio.fail_after(10):
            assert (await client.containers.stop(container.id, timeout=0.5)).code == 137


async def test_stop_sends_the_signal_that_was_asked_for(client: Any) -> None:
    script = "trap 'exit 5' QUIT; while :; do sleep 0.05; done"
    async with running(client, "sh", "-c", script, stop_signal="SIGQUIT") as container:
        await anyio.sleep(0.3)
        assert (await client.containers.stop(container.id, timeout=10)).code == 5


async def test_stop_sends_the_signal_that_the_image_names(
    daemon: Daemon, client: Any, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "bin/sh")
    build = ("image", "build", "--from-dir", tmp_path, "--stop-signal", "USR1", "stopper")
    daemon.must(daemon.orlop(*build))
    script = "trap 'exit 6' USR1; echo ready; while :; do read -t 1 line </dev/zero; done"
    spec = ContainerSpec(image="stopper", args=["sh", "-c", script], auto_remove=True)
    try:
        async with client.containers.run(spec) as session:
            async for said in session:
                assert said.data == b"ready\n"
                ended = await client.containers.stop(session.id, timeout=20)
                assert ended.code == 6
    finally:
        daemon.must(daemon.orlop("rmi", "stopper"))


async def test_a_stopped_container_starts_again_and_its_log_goes_on(client: Any) -> None:
    made = await client.containers.create(ContainerSpec(image="probe", args=["sh", "-c", "echo run; exit 2"]))
    for _ in range(2):
        assert await said(client.containers.start(made.id, attach=True)) == ("run\n", 2)
    found = (await client.containers.get(made.id)).container
    assert (found.state, found.exit.code) == (ContainerState.STOPPED, 2)
    assert found.started_at < found.exit.at
    assert [line.data async for line in client.containers.logs(made.id)] == [b"run\n", b"run\n"]
    assert [line.data async for line in client.containers.logs(made.id, tail=1)] == [b"run\n"]


async def test_what_runs_is_neither_started_nor_removed(client: Any) -> None:
    async with running(client) as container:
        async with client.containers.start(container.id) as session:
            with pytest.raises(errors.FailedPrecondition) as caught:
                await session.ready()
        assert reason(caught) == "CONTAINER_RUNNING"
        with pytest.raises(errors.FailedPrecondition) as caught:
            await client.containers.remove(container.id)
        assert reason(caught) == "CONTAINER_RUNNING"


async def test_a_frozen_container_thaws_or_is_stopped(client: Any) -> None:
    async with running(client, "sh", "-c", "trap 'exit 6' TERM; while :; do sleep 0.05; done") as container:
        await anyio.sleep(0.3)
        await client.containers.pause(container.id)
        assert (await client.containers.get(container.id)).container.state is ContainerState.PAUSED
        async with client.containers.exec(container.id, ["true"]) as session:
            with pytest.raises(errors.FailedPrecondition) as caught:
                await session.wait()
        assert reason(caught) == "CONTAINER_PAUSED"
        with pytest.raises(errors.FailedPrecondition):
            await client.containers.pause(container.id)
        await client.containers.resume(container.id)
        with pytest.raises(errors.FailedPrecondition):
            await client.containers.resume(container.id)
        await client.containers.pause(container.id)
        assert (await client.containers.stop(container.id, timeout=10)).code == 6


async def test_following_a_log_ends_with_the_container(client: Any) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.2; done; echo -n end"
    async with running(client, "sh", "-c", script) as container:
        with anyio.fail_after(20):
            lines = [line.data async for line in client.containers.logs(container.id, follow=True)]
    assert b"".join(lines) == b"1\n2\n3\nend"


async def test_stats_tell_what_is_used_until_the_end(client: Any) -> None:
    async with running(client, "sleep", "2", resources=Resources(memory_bytes=64 << 20)) as container:
        with anyio.fail_after(20):
            samples = [each async for each in client.containers.stats(container.id, interval=0.2)]
    assert len(samples) > 3
    assert samples[0].memory_limit == 64 << 20
    assert samples[0].pids == 1
    assert 0 < samples[0].memory_bytes < 64 << 20


# --- Exec and attach


async def test_an_exec_runs_beside_the_main_process(client: Any) -> None:
    async with running(client, env=["A=1"], user="0:0") as container:
        script = "echo $A $B; pwd; id -u; exit 9"
        session = client.containers.exec(
            container.id, ["sh", "-c", script], env=["B=2"], working_dir="/etc", user="12:13"
        )
        assert await said(session) == ("1 2\n/etc\n12\n", 9)
        assert (await client.containers.get(container.id)).container.state is ContainerState.RUNNING


async def test_an_exec_that_is_cancelled_is_killed(daemon: Daemon, client: Any) -> None:
    async with running(client) as container:
        async with client.containers.exec(container.id, ["sleep", "4321"]) as session:
            await session.ready()
            pid = session.pid
            assert Path(f"/proc/{pid}").exists()
        assert eventually(lambda: Path(f"/proc/{pid}").exists(), lambda there: not there, 5) is False
        listed = daemon.must(daemon.ctr("tasks", "ps", container.id))
        assert "orlop-" not in listed


async def test_a_detached_exec_runs_on_and_is_forgotten_when_it_ends(daemon: Daemon, client: Any) -> None:
    async with running(client) as container:
        async with client.containers.exec(container.id, ["sleep", "1"], detach=True) as session:
            await session.ready()
        assert Path(f"/proc/{session.pid}").exists()
        assert eventually(lambda: Path(f"/proc/{session.pid}").exists(), lambda there: not there, 5) is False


async def test_a_detached_exec_runs_on_though_its_client_is_gone_at_once(client: Any) -> None:
    async with running(client) as container:
        for number in range(20):
            async with client.containers.exec(container.id, ["sleep", f"10{number}"], detach=True) as session:
                await session.ready()
        left = {process.args[-1] for process in await client.containers.top(container.id)}
        assert left >= {f"10{number}" for number in range(20)}


async def test_the_end_of_the_requests_is_the_end_of_an_execs_input(daemon: Daemon, client: Any) -> None:
    async with running(client) as container:
        with daemon.channel() as channel:
            options = containers_pb2.ExecOptions(container=container.id, args=["cat"], stdin=True)
            requests = [
                containers_pb2.ExecRequest(options=options),
                containers_pb2.ExecRequest(input=stream_pb2.StreamInput(stdin=b"all of it")),
            ]
            stub: Any = containers_pb2_grpc.ContainerServiceStub(channel)
            metadata = [("containerd-namespace", daemon.namespace)]
            answers = list(stub.Exec(iter(requests), metadata=metadata, timeout=20))
    assert b"".join(each.output.stdout for each in answers) == b"all of it"
    assert answers[-1].output.exit.code == 0


async def test_several_clients_see_the_same_and_detach_without_harm(client: Any) -> None:
    async with running(client, "cat", stdin=True) as container:
        seen: list[bytes] = []

        async def watch() -> None:
            async with client.containers.attach(container.id) as session:
                await session.ready()
                connected.release()
                async for output in session:
                    seen.append(output.data)
                    if isinstance(output, Output) and output.data.endswith(b"!"):
                        await session.detach()
                assert session.detached

        connected = anyio.Semaphore(0)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                group.start_soon(watch)
                for _ in range(2):
                    await connected.acquire()
                async with client.containers.attach(container.id) as session:
                    await session.ready()
                    await session.write(b"hello!")
                    await session.detach()
                    with anyio.fail_after(10):
                        assert [each async for each in session.events()]
                    assert session.detached
        assert b"".join(seen) == b"hello!" * 2
        assert (await client.containers.get(container.id)).container.state is ContainerState.RUNNING


# --- Beside other clients


async def test_a_container_of_ctr_is_one_of_the_engines(daemon: Daemon, client: Any) -> None:
    name = f"ctr-{secrets.token_hex(4)}"
    daemon.must(daemon.ctr("run", "-d", "docker.io/library/probe:latest", name, "sleep", "1000"))
    (found,) = await client.containers.list()
    assert (found.id, found.name, found.state) == (name, name, ContainerState.RUNNING)
    assert found.spec is None
    assert await said(client.containers.exec(name, ["echo", "hi"])) == ("hi\n", 0)
    assert (await client.containers.stop(name, timeout=0.2)).code == 137
    await client.containers.remove(name)
    assert name not in daemon.must(daemon.ctr("containers", "ls"))


async def test_a_container_of_the_engine_is_one_of_ctrs(daemon: Daemon, client: Any) -> None:
    async with running(client, labels={"a": "b"}) as container:
        assert container.id in daemon.must(daemon.ctr("containers", "ls"))
        info = json.loads(daemon.must(daemon.ctr("containers", "info", container.id)))
        assert info["SnapshotKey"] == container.id
        assert info["Spec"]["process"]["args"] == ["sleep", "1000"]
        assert info["Labels"]["a"] == "b"
        assert f"{container.id}    {container.pid}" in daemon.must(daemon.ctr("tasks", "ls"))
        daemon.must(daemon.ctr("tasks", "kill", "-s", "9", container.id))
        assert (await client.containers.wait(container.id)).code == 137
        daemon.ctr("tasks", "rm", container.id)
        found = eventually(
            lambda: json.loads(daemon.must(daemon.orlop("ps", "-a", "--output", "json")))[0],
            lambda each: each["exit"] is not None,
            5,
        )
        assert (found["state"], found["exit"]["code"]) == ("stopped", 137)


async def test_cve_2021_41103_the_folders_of_containers_are_closed_to_others(
    daemon: Daemon, client: Any
) -> None:
    async with running(client) as container:
        folder = daemon.root / "containers"
        for each in (folder, folder / daemon.namespace / container.id):
            assert each.stat().st_mode & 0o077 == 0, each


async def test_events_are_told_in_json_too(client: Any) -> None:
    found: list[tuple[str, Any]] = []
    listening = asyncio.create_task(listen(client, found))
    await anyio.sleep(0.3)
    await run(client, "sh", "-c", "exit 3")
    await asyncio.wait_for(listening, 10)
    assert [topic for topic, _ in found] == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert found[2][1]["exit_status"] == 3


async def listen(client: Any, found: list[tuple[str, Any]]) -> None:
    """Note the events of tasks until one is deleted."""
    async for event in client.system.events(["topic~=^/tasks/"]):
        found.append((event.topic, json.loads(event.json)))
        if event.topic == "/tasks/delete":
            return


async def test_prune_removes_what_has_ended_and_nothing_else(client: Any) -> None:
    async with running(client) as alive:
        made = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
        await said(client.containers.start(made.id, attach=True))
        waiting = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
        pruned = await client.system.prune(containers=True)
        assert pruned.containers == (made.id,)
        assert {each.id for each in await client.containers.list()} == {alive.id, waiting.id}
        usage = await client.system.disk_usage()
        assert usage.content.count >= 3


async def test_processes_outlive_the_daemons_stop_whatever_their_clients_asked(
    fresh_daemon: Daemon, archive: str
) -> None:
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    async with daemon.connect() as client:
        spec = ContainerSpec(image="probe", args=["sleep", "1000"])
        async with client.containers.run(spec, on_cancel=OnCancel.KILL) as session:
            await session.ready()
            async with client.containers.exec(session.id, ["sleep", "1000"]) as inner:
                await inner.ready()
                await anyio.to_thread.run_sync(daemon.stop)
                with pytest.raises(errors.Unavailable):
                    await session.wait()
    assert Path(f"/proc/{session.pid}").exists()
    assert Path(f"/proc/{inner.pid}").exists()
    await anyio.to_thread.run_sync(daemon.start)
    async with daemon.connect() as client:
        (found,) = await client.containers.list()
        assert [found.state, found.pid] == [ContainerState.RUNNING, session.pid]
        await client.containers.remove(session.id, force=True)
    assert not Path(f"/proc/{inner.pid}").exists()


async def test_a_removal_goes_on_when_its_client_goes(client: Any) -> None:
    for delay in (0, 0.005, 0.01, 0.02, 0.04, 0.08):
        container = await client.containers.create(ContainerSpec(image="probe", args=["sleep", "1000"]))
        async with client.containers.start(container.id) as session:
            await session.ready()
        # gRPC answers a cancelled call with an error that only asyncio's own timeout knows for its own.
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await client.containers.remove(container.id, force=True)
        with anyio.fail_after(20):
            while await client.containers.list():
                with suppress(errors.NotFound):
                    await client.containers.remove(container.id, force=True)

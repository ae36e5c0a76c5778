"""What a container's spec asks for is what its process finds."""

from __future__ import annotations

import json
import secrets
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orlop import errors
from orlop.values import ContainerSpec, Hook, HookStage, Mount, MountType, Network, Resources
from tests.support.daemon import Daemon
from tests.support.engine import run

# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
# ruff: noqa: ASYNC240 - what the tests look at on the disk is small
pytestmark = pytest.mark.timeout(180)


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

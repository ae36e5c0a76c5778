"""What systemd is told about shims and control groups, written down by programs in its place."""

# Small files, and one client.
# ruff: noqa: ASYNC110, ASYNC240

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from orlop_plugins.oci import scope
from orlop_plugins.oci.config import OciConfig
from orlop_protos.containerd.runc.v1 import oci_pb2
from orlopd.plugin.values import TypedBytes
from tests.runtime.conftest import TAG, Bench

ASKED = """#!/bin/sh
printf '%s\\n' "$@" >>{record}
"""
WITHOUT_SYSTEMD = """#!/bin/sh
# The real runtime, which is not told to ask systemd: a group by systemd's name is one at that path.
for word; do
    [ "$word" = --systemd-cgroup ] && echo "$*" >>{record}
    shift
    [ "$word" = --systemd-cgroup ] || set -- "$@" "$word"
done
exec runc "$@"
"""


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Makes a program that writes down what it is told; where."""

    def make(name: str, script: str) -> Path:
        record = tmp_path / f"{name}.asked"
        (tmp_path / name).write_text(script.replace("{record}", str(record)))
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return record

    return make


async def test_a_shim_has_a_scope_of_its_own(
    bench: Bench, recording: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record = recording("busctl", ASKED)
    monkeypatch.setattr(scope, "RUNNING", tmp_path)
    async with bench.open() as runtime:
        task = await runtime.create(bench.spec("a", "sleep", "100"))
        shim = bench.shim_pid("a")
        with anyio.fail_after(30):
            while not record.exists() or not record.read_text().endswith("0\n"):
                await anyio.sleep(0.01)
        await task.delete()
    asked = record.read_text().splitlines()
    assert "StartTransientUnit" in asked
    assert asked[asked.index("ssa(sv)a(sa(sv))") + 1 :][:3] == ["orlop-shim-test-a.scope", "fail", "3"]
    assert asked[asked.index("PIDs") :] == ["PIDs", "au", "1", str(shim), "0"]
    assert asked[asked.index("CollectMode") :][:3] == ["CollectMode", "s", "inactive-or-failed"], (
        "a dead one is forgotten"
    )


async def test_without_systemd_nobody_is_asked(bench: Bench, recording: Callable[[str, str], Path]) -> None:
    record = recording("busctl", ASKED)
    async with bench.open() as runtime:
        await (await runtime.create(bench.spec("a", "true"))).delete()
    assert not record.exists()


@pytest.mark.parametrize("by", ["config", "option"])
async def test_control_groups_that_systemd_makes_are_named_its_way_and_leave_nothing(
    bench: Bench, recording: Callable[[str, str], Path], tmp_path: Path, by: str
) -> None:
    record = recording("quiet", WITHOUT_SYSTEMD)
    bench.config = OciConfig(
        binary=str(tmp_path / "quiet"), systemd_cgroup=by == "config", cgroup_parent="machine-test.slice"
    )
    told = oci_pb2.Options(systemd_cgroup=True)
    options = TypedBytes(told.DESCRIPTOR.full_name, told.SerializeToString()) if by == "option" else None
    async with bench.open() as runtime:
        spec = bench.spec("a", "sleep", "100", cgroup="/test/a")
        task = await runtime.create(replace(spec, options=options))
        pid = await task.start()
        groups = Path(f"/proc/{pid}/cgroup").read_text()
        assert "machine-test.slice:orlop:test-a" in groups
        os.kill(bench.shim_pid("a"), signal.SIGKILL)
        assert (await task.wait()).reason == "shim lost"
        await task.delete()
    commands = {word for line in record.read_text().splitlines() for word in line.split()}
    assert {"create", "start"} <= commands
    assert not list(Path("/sys/fs/cgroup").glob("*/machine-test.slice:orlop:test-a"))


async def test_control_groups_lie_below_a_configured_parent(bench: Bench) -> None:
    bench.config = OciConfig(cgroup_parent=f"/{TAG}-parent")
    async with bench.open() as runtime:
        task = await runtime.create(bench.spec("a", "sleep", "100", cgroup="/test/a"))
        pid = await task.start()
        assert f":pids:/{TAG}-parent/test/a\n" in Path(f"/proc/{pid}/cgroup").read_text()
        own = await runtime.create(bench.spec("b", "true", cgroup=f"/{TAG}-own"))
        await own.delete()
        await task.kill(9)
        await task.wait()
        await task.delete()
    for group in Path("/sys/fs/cgroup").glob(f"*/{TAG}-parent"):
        group.rmdir()

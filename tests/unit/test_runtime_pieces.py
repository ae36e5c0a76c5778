"""The parts of the OCI runtime plugin that need no container."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orlop_plugins.oci import journal, specs, stdio, wire
from orlop_plugins.oci.config import OciConfig
from orlop_plugins.oci.probe import probe
from orlop_plugins.oci.shim.attach import signal_number
from orlop_plugins.oci.shim.logfile import LogFile, LogKeeping
from orlop_plugins.oci.shim.restore import checkpoint_args, restore_args
from orlop_protos.containerd.events import task_pb2 as events
from orlop_protos.containerd.runc.v1 import oci_pb2
from orlopd.core.logs import parse_line
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound, Skip
from orlopd.plugin.runtime import Stdio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    "given",
    [
        Stdio(),
        Stdio("/in", "/out", "/err", True),
        Stdio(stdout="file:///a%20b", stderr="file:///a%20b"),
        Stdio(attach=True),
        Stdio("/in", "/o?u&t=1", "/err", attach=True, hold_stdin=True, log="/l o/g&x=é"),
        Stdio(stdout="binary:///bin/x?a=b", log="/log"),
    ],
)
def test_stdio_travels_whole(given: Stdio) -> None:
    assert stdio.decode(*stdio.encode(given), given.terminal) == given


def test_a_malformed_stream_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        stdio.decode("", "attach:?nonsense", "", False)


def test_an_error_travels_with_reason_and_hint() -> None:
    error = FailedPrecondition("no — said so", reason="WHY", resource="task a", hint="do §")
    back = wire.unpack_error(error.code, error.message, wire.pack_error(error))
    assert type(back) is FailedPrecondition
    assert (back.message, back.reason, back.resource, back.hint) == ("no — said so", "WHY", "task a", "do §")
    assert type(wire.unpack_error("NOT_FOUND", "x", ())) is NotFound


def test_times_travel_to_the_microsecond() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert wire.from_timestamp(wire.to_timestamp(at)) == at


async def test_a_journal_is_read_back_and_a_torn_tail_ignored(tmp_path: Path) -> None:
    path = tmp_path / journal.FILE
    written = journal.Journal(path)
    for pid in (1, 2, 3):
        written.add(events.TaskStart(container_id="a", pid=pid))
    assert [(item.sequence, journal.unpack(item).pid) for item in journal.read(path)] == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    assert [item.sequence for item in journal.read(path)] == [1, 2]
    journal.append(path, events.TaskExit(container_id="a", id="a", exit_status=9))
    assert [item.topic for item in journal.read(path)] == ["/tasks/start", "/tasks/start", "/tasks/exit"]


async def test_followers_get_what_was_and_what_comes(tmp_path: Path) -> None:
    written = journal.Journal(tmp_path / journal.FILE)
    written.add(events.TaskStart(pid=1))

    async def collect(after: int) -> list[int]:
        return [item.sequence async for item in written.follow(after)]

    tasks = [asyncio.create_task(collect(after)) for after in (0, 1)]
    await asyncio.sleep(0)
    written.add(events.TaskStart(pid=2))
    written.close()
    assert [await task for task in tasks] == [[1, 2], [2]]
    written.forget(1)
    assert await collect(0) == [2]


async def test_a_grown_journal_keeps_the_main_processs_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_COMPACT_BYTES", 100)
    path = tmp_path / journal.FILE
    written = journal.Journal(path)
    written.add(events.TaskStart(container_id="a", pid=1))
    for number in range(50):
        written.add(events.TaskExecStarted(container_id="a", exec_id=f"e{number}", pid=number))
        if number != 7:
            written.add(events.TaskExit(container_id="a", id=f"e{number}", pid=number))
    written.add(events.TaskExit(container_id="a", id="a", exit_status=3))
    written.forget(100)
    assert [journal.unpack(item).pid for item in journal.read(path)] == [1, 7, 0]
    written.add(events.TaskDelete(container_id="a"))
    assert [item.sequence for item in journal.read(path)] == [1, 16, 101, 102]


async def test_a_journal_whose_events_are_handled_stays_small(tmp_path: Path) -> None:
    path = tmp_path / journal.FILE
    written = journal.Journal(path)
    before = 0
    tracemalloc.start()
    try:
        for number in range(3_000):
            written.add(events.TaskExecAdded(container_id="a" * 64, exec_id=f"e{number}"))
            if number == 1000 or number % 256 == 0:
                written.forget(number)
            if number == 1000:
                before, _ = tracemalloc.get_traced_memory()
        assert tracemalloc.get_traced_memory()[0] - before < 300_000
    finally:
        tracemalloc.stop()
    assert path.stat().st_size < 512 << 10


async def test_the_log_keeps_bytes_and_pieces_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = LogFile(str(path), 2)
    sink.write(1, b"one\ntw")
    sink.write(2, b"err\n")
    sink.write(1, b"o\n\npart")
    sink.release()
    sink.release()
    lines = [line.split(b" ", 1)[1] for line in path.read_bytes().splitlines()]
    assert lines == [b"stdout F one", b"stderr F err", b"stdout F two", b"stdout F ", b"stdout P part"]


async def test_a_log_of_json_lines_is_dockers_and_loses_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = LogFile(str(path), 2, LogKeeping(format="json"))
    said = b'a "b" \xc3\xa9\n\n\xff\xfe not UTF-8 \xed\xb2\x80\n' + b"\xc3\xa9" * 20_000 + b"\npart"
    sink.write(1, said[:7])  # in the middle of a character
    sink.write(1, said[7:])
    sink.write(2, b"err\n")
    sink.release()
    sink.release()
    lines = path.read_bytes().splitlines()
    assert b'{"log":"a \\"b\\" \xc3\xa9\\n","stream":"stdout","time":"20' in lines[0]
    assert json.loads(lines[-1])["log"] == "part"
    entries = [entry for entry in map(parse_line, lines) if entry]
    assert len(entries) == len(lines)
    assert b"".join(entry.data for entry in entries if entry.fd == 1) == said
    assert [entry.data for entry in entries if entry.fd == 2] == [b"err\n"]


async def test_a_log_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    """CVE-2026-53489."""
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(FailedPrecondition):
        LogFile(str(tmp_path / "log"), 1)
    assert not (tmp_path / "victim").exists()


def test_signals_have_names_and_numbers() -> None:
    assert [signal_number(name) for name in ("TERM", "SIGKILL", "hup", "34")] == [15, 9, 1, 34]
    for name in ("", "NOPE", "0", "99", "-1"):
        with pytest.raises(InvalidArgument):
            signal_number(name)


def test_a_spec_is_limited_to_what_the_runtime_knows() -> None:
    given = json.dumps({"ociVersion": "1.2.0", "process": {}}).encode()
    assert json.loads(specs.prepare(given, bundle="", newest="1.0.0")[0])["ociVersion"] == "1.0.0"
    assert json.loads(specs.prepare(given, bundle="", newest="1.2.1")[0])["ociVersion"] == "1.2.0"
    assert json.loads(specs.prepare(given, bundle="", newest="")[0])["ociVersion"] == "1.2.0"


def test_checkpoint_and_restore_arguments(tmp_path: Path) -> None:
    options = oci_pb2.CheckpointOptions(
        open_tcp=True, terminal=True, empty_namespaces=["network"], cgroups_mode="soft"
    )
    assert checkpoint_args(options, "/img", tmp_path) == [
        *("--image-path", "/img", "--work-path", str(tmp_path / "criu-work")),
        *("--tcp-established", "--shell-job", "--leave-running"),
        *("--empty-ns", "network", "--manage-cgroups-mode", "soft"),
    ]
    assert restore_args(oci_pb2.Options(criu_work_path="/w"), "/img", "/parent", tmp_path) == [
        *(
            "--detach",
            "--no-subreaper",
            "--image-path",
            "/img",
            "--work-path",
            "/w",
            "--parent-path",
            "/parent",
        )
    ]


def _pretend_crun(folder: Path, version: str) -> Path:
    path = folder / "crun"
    path.write_text(f"#!/bin/sh\necho crun version {version}\necho commit: 0\n")
    path.chmod(0o755)
    return path


def _context(state: Path, binary: str = "") -> Any:
    return SimpleNamespace(state=state, config=OciConfig(binary=binary))


def test_a_runtime_that_is_not_installed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Skip, match=r"^runc is not installed: apt-get install runc$"):
        probe("runc", _context(tmp_path))
    probe("runc", _context(tmp_path, "/nonexistent/runc"))
    (tmp_path / "tasks" / "default" / "left").mkdir(parents=True)
    probe("runc", _context(tmp_path))


@pytest.mark.parametrize(
    ("version", "controllers", "suits"),
    [("1.8.1", "hugetlb", False), ("1.8.1", "", True), ("1.9", "hugetlb", True), ("1.14.4", "cpu", True)],
)
def test_an_old_crun_is_skipped_where_it_starts_nothing(
    version: str, controllers: str, suits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cgroup.controllers").write_text(controllers + "\n")
    monkeypatch.setattr("orlop_plugins.oci.probe.UNIFIED", tmp_path)
    context = _context(tmp_path, str(_pretend_crun(tmp_path, version)))
    if suits:
        probe("crun", context)
    else:
        with pytest.raises(Skip, match=rf"crun {version} starts no container .*has controllers"):
            probe("crun", context)

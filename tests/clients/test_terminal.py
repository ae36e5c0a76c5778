"""The command in a terminal: what a person sees, types and gets back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from orlop.cli.terminal import DetachScanner, detach_sequence

from .conftest import eventually

KEYS = detach_sequence("ctrl-p,ctrl-q")


def test_terminal_is_raw_while_it_runs_and_restored_afterwards(screen: Any, world: Any) -> None:
    shown = screen("run", "-it", "--name", "box", "any", "cat")
    shown.expect(b"size")
    assert shown.raw
    shown.type(b"hello")
    shown.expect(b"hello")
    shown.type(b"exit 7")
    assert shown.wait() == 7
    assert shown.restored()
    assert world.record("run")["terminal"]


def test_ctrl_c_is_a_byte_for_the_process(screen: Any, world: Any) -> None:
    shown = screen("run", "-it", "any", "cat")
    shown.expect(b"size")
    shown.type(b"\x03")
    shown.expect(b"\x03")
    shown.type(b"exit 0")
    assert shown.wait() == 0
    assert world.records("kill") == []


def test_window_size_follows(screen: Any, world: Any) -> None:
    shown = screen("run", "-it", "any", "cat", rows=30, columns=100)
    shown.expect(b"size 30 100")
    shown.resize(40, 120)
    shown.expect(b"size 40 120")
    shown.type(b"exit 0")
    assert shown.wait() == 0
    assert world.record("run")["window"] == [100, 30]


def test_detach_keys_leave_it_running_and_attach_comes_back(screen: Any, world: Any) -> None:
    first = screen("run", "-it", "--name", "box", "any", "cat")
    first.expect(b"size")
    first.type(b"\x10\x11")
    first.expect(b"detached from box")
    assert first.wait() == 0
    assert first.restored()
    assert world.ok("ps", "-q")
    second = screen("attach", "box")
    second.expect(b"size 24 80")
    second.type(b"again")
    second.expect(b"again")
    second.type(b"exit 3")
    assert second.wait() == 3


def test_detach_keys_can_be_chosen(screen: Any) -> None:
    shown = screen("run", "-it", "--name", "box", "--detach-keys", "ctrl-x", "any", "cat")
    shown.expect(b"size")
    shown.type(b"\x10\x11")
    shown.expect(b"\x10\x11")
    shown.type(b"\x18")
    shown.expect(b"detached")
    assert shown.wait() == 0


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"abc"], b"abc", False),
        ([b"a\x10", b"\x11b"], b"a", True),
        ([b"\x10x"], b"\x10x", False),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_detach_keys_are_found_across_reads(typed: list[bytes], passed: bytes, detached: bool) -> None:
    scanner = DetachScanner(KEYS)
    results = [scanner.feed(data) for data in typed]
    assert b"".join(data for data, _ in results) == passed
    assert any(found for _, found in results) == detached


def test_detach_keys_are_spelled_as_in_docker() -> None:
    assert detach_sequence("ctrl-@,a,ctrl-]") == b"\x00a\x1d"
    with pytest.raises(ValueError, match="ctrl-1"):
        detach_sequence("ctrl-1")


def test_piped_input_with_a_terminal_is_refused(world: Any) -> None:
    done = world.run("run", "-it", "any", "cat")
    assert done.returncode == 125
    assert done.stderr.startswith(b"orlop: the input device is not a TTY\n")


def test_terminal_without_input_is_no_raw_one(screen: Any) -> None:
    shown = screen("run", "-t", "any", "stubborn")
    shown.expect(b"ready")
    assert not shown.raw
    shown.type(b"\x03")
    shown.expect(b"was asked")
    shown.type(b"\x03")
    assert shown.wait() == 137


def test_first_ctrl_c_asks(screen: Any, world: Any) -> None:
    shown = screen("run", "any", "polite")
    shown.expect(b"ready")
    shown.type(b"\x03")
    shown.expect(b"got INT")
    assert shown.wait() == 0
    assert [record["kill"] for record in world.records("kill")] == ["INT"]


def test_second_ctrl_c_kills(screen: Any, world: Any) -> None:
    shown = screen("run", "any", "stubborn")
    shown.expect(b"ready")
    shown.type(b"\x03")
    shown.expect(b"was asked to end")
    shown.type(b"\x03")
    assert shown.wait() == 137
    assert [record["kill"] for record in world.records("kill")] == ["INT", "KILL"]


def test_signals_do_not_wait_behind_input_that_nobody_reads(world: Any) -> None:
    with Path("/dev/zero").open("rb") as endless:
        process = world.start("run", "-i", "any", "stubborn", stdin=endless, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 137
        process.stdout.close()


def test_ctrl_c_cancels_a_pull_and_gives_the_cursor_back(screen: Any, world: Any) -> None:
    shown = screen("run", "slow", "echo")
    shown.expect(b"fetching")
    shown.type(b"\x03")
    assert shown.wait() == 130
    assert b"\x1b[?25h" in shown.seen
    assert world.record("cancelled")


def test_pull_draws_a_bar_per_layer(screen: Any) -> None:
    shown = screen("pull", "alpine")
    shown.expect(b"resolved sha256:0123")
    assert shown.wait() == 0
    assert b"aaaaaaaaaaaa" in shown.seen
    assert b"unpacked" in shown.seen
    assert b"docker.io/library/alpine:latest" in shown.seen


def test_a_closed_window_leaves_the_container_running(screen: Any, world: Any) -> None:
    shown = screen("run", "-it", "--name", "box", "any", "cat")
    shown.expect(b"size")
    shown.process.send_signal(signal.SIGHUP)
    assert shown.wait() == 0
    assert "box" in world.ok("ps")


def test_terminal_is_restored_when_terminated(screen: Any) -> None:
    shown = screen("run", "-it", "any", "cat")
    shown.expect(b"size")
    shown.process.terminate()
    shown.expect(b"signal TERM")
    shown.process.terminate()
    assert shown.wait() == 137
    assert shown.restored()


def test_exec_in_a_terminal(screen: Any, world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "stubborn")
    shown = screen("exec", "-it", "box", "cat")
    shown.expect(b"size 24 80")
    shown.type(b"exit 5")
    assert shown.wait() == 5


def test_second_ctrl_c_kills_an_exec(screen: Any, world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "stubborn")
    shown = screen("exec", "box", "stubborn")
    shown.expect(b"ready")
    shown.type(b"\x03")
    shown.expect(b"was asked")
    shown.type(b"\x03")
    assert shown.wait() == 137
    assert world.record("exec_killed")


def test_watching_does_not_stop_the_container(screen: Any, world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "polite")
    shown = screen("attach", "--no-sig-proxy", "--no-stdin", "box")
    shown.expect(b"ready")
    shown.type(b"\x03")
    assert shown.wait() == 130
    assert "box" in world.ok("ps")


@pytest.mark.parametrize("kind", ["file", "null", "closed", "pipe"])
def test_input_of_every_kind(world: Any, tmp_path: Any, kind: str) -> None:
    data = b"x" * 3_000_000
    settings: dict[str, Any] = {}
    expected = len(data)
    if kind == "file":
        (tmp_path / "data").write_bytes(data)
        settings["stdin"] = os.open(tmp_path / "data", os.O_RDONLY)
    elif kind == "null":
        settings["stdin"], expected = subprocess.DEVNULL, 0
    elif kind == "closed":
        settings["preexec_fn"], expected = lambda: os.close(0), 0
    else:
        settings["stdin"] = subprocess.PIPE
    process = world.start("run", "-i", "any", "count", stdout=subprocess.PIPE, **settings)
    out, _ = process.communicate(data if kind == "pipe" else None, timeout=30)
    if kind == "file":
        os.close(settings["stdin"])
    assert out == b"%d\n" % expected
    assert process.returncode == 0


def test_output_goes_on_after_input_has_ended(world: Any) -> None:
    process = world.start("run", "-i", "any", "polite", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    assert world.record("stdin_end")
    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()


def test_a_reader_that_leaves_ends_it_quietly(world: Any) -> None:
    process = world.start("run", "any", "flood", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert len(process.stdout.read(100_000)) == 100_000
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGPIPE
    assert process.stderr.read() == b""
    process.stderr.close()


def test_ctrl_c_works_while_nobody_reads_the_output(world: Any) -> None:
    process = world.start("run", "any", "flood", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.read(1) == b"x"
    time.sleep(0.3)

    def interrupted() -> int | None:
        process.send_signal(signal.SIGINT)  # two at once may be one
        time.sleep(0.1)
        return process.poll()

    eventually(lambda: interrupted() is not None)
    assert process.returncode in (137, 130)
    process.stdout.close()

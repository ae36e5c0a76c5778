"""What ``ctr`` does beside the listings that are compared with containerd: streams, terminals, waits."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.api import Api
from tests.support.ctr import events_in
from tests.support.daemon import Daemon, eventually
from tests.support.tmux import Terminal

IMAGE = "docker.io/library/probe:latest"


@pytest.fixture
def name() -> str:
    return f"ctr-{secrets.token_hex(4)}"


@pytest.fixture
def running(daemon: Daemon, image: str, name: str) -> Iterator[str]:
    """A container that sleeps, made and removed by ctr."""
    daemon.must(daemon.ctr("run", "-d", IMAGE, name, "sleep", "1000"))
    yield name
    daemon.ctr("tasks", "kill", "-s", "9", name)
    eventually(
        lambda: daemon.ctr("tasks", "ls").stdout, lambda said: b"RUNNING" not in line_of(said, name), 10
    )
    daemon.ctr("tasks", "rm", name)
    daemon.must(daemon.ctr("containers", "rm", name))


def line_of(listing: bytes, name: str) -> bytes:
    return next((line for line in listing.splitlines() if line.startswith(name.encode())), b"")


def test_a_script_piped_in_runs_and_ends_with_its_input(daemon: Daemon, image: str, name: str) -> None:
    done = daemon.ctr("run", "--rm", IMAGE, name, "sh", stdin="echo hi $((1+2))\n")
    assert (done.returncode, done.stdout) == (0, b"hi 3\n")


def test_much_goes_through_a_pipe_unharmed(daemon: Daemon, image: str, name: str) -> None:
    data = bytes(range(256)) * 8192
    # On a busy machine Debian's ctr loses what it had not read when a container ends, containerd's as well.
    done = daemon.ctr("run", "--rm", IMAGE, name, "sh", "-c", "cat; sleep 2", stdin=data)
    assert done.returncode == 0
    assert done.stdout == data


def test_a_terminal_of_ctr(daemon: Daemon, image: str, name: str, tmp_path: Path) -> None:
    with Terminal(tmp_path, daemon.environment) as terminal:
        terminal.type(f"ctr -a {daemon.socket} run -t --rm --env PS1='inside> ' {IMAGE} {name} sh")
        terminal.wait_for("inside>", count=2)
        terminal.type("tty; stty size")
        terminal.wait_for("/dev/pts/0")
        terminal.wait_for("30 100")
        terminal.type("exit 7")
        terminal.wait_for("host>", count=2)
        terminal.type("echo code=$?")
        terminal.wait_for("code=7")


def test_what_is_written_to_nothing_is_gone_and_nothing_comes_in(
    daemon: Daemon, image: str, name: str
) -> None:
    script = "read line || echo $? >/code; echo lost; echo lost >&2; head -c 1000000 /dev/zero; sleep 1000"
    daemon.must(daemon.ctr("run", "-d", "--null-io", IMAGE, name, "sh", "-c", script))
    try:
        look = ("tasks", "exec", "--exec-id", "look", name, "cat", "/code")
        eventually(lambda: daemon.ctr(*look).stdout, lambda said: said == b"1\n", 30)
        said = daemon.ctr("tasks", "ls").stdout
        assert b"RUNNING" in line_of(said, name), "a pipe that nobody reads would hold it up or end it"
    finally:
        daemon.ctr("tasks", "rm", "-f", name)
        daemon.must(daemon.ctr("containers", "rm", name))


def test_attach_shows_what_is_written_from_then_on(daemon: Daemon, image: str, name: str) -> None:
    script = "while :; do echo tick; sleep 0.1; done"
    daemon.must(daemon.ctr("run", "-d", IMAGE, name, "sh", "-c", script))
    attached = subprocess.Popen(
        ["ctr", "-a", daemon.socket, "tasks", "attach", name],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=daemon.environment,
    )
    assert attached.stdout is not None
    assert attached.stdout.readline() == b"tick\n"
    assert attached.stdout.readline() == b"tick\n"
    daemon.must(daemon.ctr("tasks", "kill", "-s", "9", name))
    assert attached.wait(20) == 137
    attached.stdout.close()
    eventually(lambda: daemon.ctr("tasks", "rm", name).returncode, lambda code: code in {0, 1}, 5)
    daemon.must(daemon.ctr("containers", "rm", name))


def test_a_signal_for_a_container_in_the_foreground(daemon: Daemon, image: str, name: str) -> None:
    script = (
        "trap 'echo heard' WINCH; trap 'echo caught; exit 4' TERM; echo ready; while :; do sleep 0.1; done"
    )
    command = ["ctr", "-a", daemon.socket, "run", "--rm", IMAGE, name, "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=daemon.environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # ctr forwards signals only from some time after the start on, which one that it may lose tells.
        os.set_blocking(process.stdout.fileno(), False)
        heard = eventually(lambda: _signalled(process, signal.SIGWINCH), bool, 20)
        assert heard.startswith(b"heard\n")
        os.set_blocking(process.stdout.fileno(), True)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().replace(b"heard\n", b"") == b"caught\n"
        assert process.wait(20) == 4


def _signalled(process: subprocess.Popen[bytes], number: signal.Signals) -> bytes:
    """What a process writes in answer to a signal, if it does."""
    assert process.stdout is not None
    process.send_signal(number)
    time.sleep(0.1)
    return process.stdout.read() or b""


def test_a_container_made_by_ctr_is_one_of_ours(daemon: Daemon, running: str) -> None:
    assert running in daemon.must(daemon.orlop("ps"))
    assert daemon.must(daemon.orlop("exec", running, "echo", "hello")) == "hello\n"


def test_a_container_of_ours_is_one_of_ctrs(daemon: Daemon, image: str) -> None:
    container = daemon.must(daemon.orlop("run", "-d", image, "sleep", "1000")).strip()
    try:
        assert b"RUNNING" in line_of(daemon.ctr("tasks", "ls").stdout, container[:12])
        assert (
            daemon.must(daemon.ctr("tasks", "exec", "--exec-id", "e", container, "echo", "hello"))
            == "hello\n"
        )
        assert IMAGE in daemon.must(daemon.ctr("containers", "ls"))
    finally:
        daemon.must(daemon.orlop("rm", "-f", container))


def test_metrics_count_memory_and_processes(daemon: Daemon, running: str) -> None:
    def metrics() -> list[str]:
        return daemon.must(daemon.ctr("tasks", "metrics", running)).split()

    # The runtime's own threads go when it becomes the program.
    said = eventually(metrics, lambda words: words[words.index("pids.current") + 1] == "1", 20)
    assert int(said[said.index("pids.current") + 1]) == 1
    assert int(said[said.index("memory.usage_in_bytes") + 1]) > 10_000


def test_ps_names_the_exec_of_a_process(daemon: Daemon, running: str) -> None:
    with subprocess.Popen(
        ["ctr", "-a", daemon.socket, "tasks", "exec", "--exec-id", "shown", running, "sleep", "1000"],
        env=daemon.environment,
        stdin=subprocess.PIPE,
    ) as process:
        said = eventually(
            lambda: daemon.must(daemon.ctr("tasks", "ps", running)), lambda text: "shown" in text, 20
        )
        assert len(said.splitlines()) == 3
        daemon.must(daemon.ctr("tasks", "kill", "-s", "9", "--exec-id", "shown", running))
        assert process.wait(20) == 137


def test_a_lease_keeps_content_until_it_is_gone(daemon: Daemon) -> None:
    for lease in ("holder", "other"):
        daemon.must(daemon.ctr("leases", "create", "--id", lease))
    data = secrets.token_bytes(8)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with daemon.channel() as channel:  # ctr has no word for the lease of what it brings
        Api(channel, daemon.namespace).put("note", data, digest, lease="holder")
    daemon.must(daemon.ctr("leases", "rm", "--sync", "other"))
    assert digest in daemon.must(daemon.ctr("content", "ls", "-q"))
    daemon.must(daemon.ctr("leases", "rm", "--sync", "holder"))
    assert digest not in daemon.must(daemon.ctr("content", "ls", "-q"))


def test_events_are_told_as_they_happen(daemon: Daemon, image: str, name: str, tmp_path: Path) -> None:
    def told() -> list[str]:
        lines = (tmp_path / "events").read_text().splitlines(keepends=True)
        return [line.split()[5] for line in lines if name in line and line.endswith("\n")]

    with events_in(tmp_path / "events", str(daemon.socket), env=daemon.environment):
        daemon.ctr("run", "--rm", IMAGE, name, "sh", "-c", "exit 3")
        found = eventually(told, lambda topics: "/containers/delete" in topics, 20)
    order = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/containers/delete"]
    assert [topic for topic in found if topic in order] == order

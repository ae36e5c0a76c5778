"""Restart policies: containers that come back, after their end and after the daemon's."""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

import orlop.sync
from orlop.values import ContainerState
from tests.support.daemon import Daemon

pytestmark = pytest.mark.timeout(180)

AGAIN = 0.6
"""Seconds after which what is started again would be: the first pauses are of 0.1 and 0.2 s."""


@pytest.fixture
def name(daemon: Daemon, image: str) -> Iterator[str]:
    chosen = f"re-{secrets.token_hex(4)}"
    yield chosen
    daemon.orlop("rm", "-f", chosen)


def _run(daemon: Daemon, name: str, policy: str, *command: str) -> None:
    daemon.must(daemon.orlop("run", "-d", "--restart", policy, "--name", name, "probe", *command))


def _inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    found = json.loads(daemon.must(daemon.orlop("inspect", name)))
    return found[0] if isinstance(found, list) else found


def _until(true: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _running_again(daemon: Daemon, name: str, pid: int) -> bool:
    now = _inspect(daemon, name)
    return now["state"] == "running" and now["pid"] not in (0, pid)


def test_a_container_that_is_killed_from_outside_comes_back(daemon: Daemon, name: str) -> None:
    _run(daemon, name, "always", "sleep", "1000")
    pid = _inspect(daemon, name)["pid"]
    os.kill(pid, signal.SIGKILL)
    _until(lambda: _running_again(daemon, name, pid))
    assert _inspect(daemon, name)["restarts"] == 1
    daemon.must(daemon.orlop("stop", "--time", "0", name))
    time.sleep(AGAIN)
    assert _inspect(daemon, name)["state"] == "stopped"


def test_on_failure_tries_as_often_as_it_may(daemon: Daemon, name: str) -> None:
    _run(daemon, name, "on-failure:4", "sh", "-c", "echo try; exit 3")
    _until(lambda: _inspect(daemon, name)["restarts"] == 4 and _inspect(daemon, name)["state"] == "stopped")
    time.sleep(AGAIN)
    assert daemon.must(daemon.orlop("logs", name)) == "try\n" * 5


def test_on_failure_leaves_a_success_alone(daemon: Daemon, name: str) -> None:
    _run(daemon, name, "on-failure", "sh", "-c", "echo once")
    _until(lambda: _inspect(daemon, name)["state"] == "stopped")
    time.sleep(AGAIN)
    assert daemon.must(daemon.orlop("logs", name)) == "once\n"


def test_a_policy_that_is_none_and_one_that_contradicts(daemon: Daemon, image: str) -> None:
    for arguments, said in (
        (("--restart", "sometimes"), b"'sometimes' is no restart policy"),
        (("--restart", "always:3"), b"no restart policy"),
        (("--rm", "--restart", "always"), b"cannot both be removed when it ends and be started again"),
    ):
        done = daemon.orlop("run", *arguments, image, "true")
        assert done.returncode == 125
        assert said in done.stderr
    assert daemon.must(daemon.orlop("ps", "-aq")) == ""


def test_after_a_restart_of_the_daemon_each_is_as_its_policy_says(fresh_daemon: Daemon, archive: str) -> None:
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    for name, policy in (("a", "always"), ("s", "always"), ("u", "unless-stopped"), ("n", "no")):
        _run(daemon, name, policy, "sleep", "1000")
    daemon.must(daemon.orlop("stop", "--time", "0", "s", "u"))
    pids = {name: _inspect(daemon, name)["pid"] for name in ("a", "n")}
    daemon.kill9()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    daemon.start()
    _until(lambda: _running_again(daemon, "a", pids["a"]) and _running_again(daemon, "s", 0))
    time.sleep(AGAIN)
    assert _inspect(daemon, "u")["state"] == "stopped"
    assert _inspect(daemon, "n")["state"] == "stopped"
    daemon.must(daemon.orlop("rm", "-f", "a", "s", "u", "n"))


def test_a_daemon_that_is_killed_between_two_attempts_goes_on_with_them(
    fresh_daemon: Daemon, archive: str
) -> None:
    """It starts the container at once, and counts on from what was: five attempts are five, pauses grow."""
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    _run(daemon, "box", "on-failure:5", "sh", "-c", "echo try; exit 3")
    with orlop.sync.connect(daemon.address, namespace=daemon.namespace) as client:
        _until(lambda: len(list(client.containers.logs("box"))) == 4)
        _until(lambda: client.containers.get("box").container.state is ContainerState.STOPPED)
    daemon.kill9()  # three attempts have failed, and the fourth is 0.8 s away
    daemon.start()
    _until(lambda: _inspect(daemon, "box")["restarts"] == 5)
    _until(lambda: _inspect(daemon, "box")["state"] == "stopped")
    lines = daemon.must(daemon.orlop("logs", "--timestamps", "box")).splitlines()
    tries = [datetime.fromisoformat(line.split()[0]) for line in lines]
    assert len(tries) == 6
    assert (tries[5] - tries[4]).total_seconds() >= 1.6, "the pause after the fourth attempt"
    daemon.must(daemon.orlop("rm", "box"))


@pytest.mark.parametrize("policy", [("--label", "containerd.io/restart.policy=always"), ()])
def test_a_container_of_containerds_api_has_a_policy_by_label(
    daemon: Daemon, name: str, image: str, policy: tuple[str, ...]
) -> None:
    """A wanted status of running means always by itself, as containerd's monitor has it."""
    status = ("--label", "containerd.io/restart.status=running")
    full = f"docker.io/library/{image}:latest"
    daemon.must(daemon.ctr("run", "-d", *policy, *status, full, name, "sleep", "1000"))
    for restarts in (1, 2):
        pid = _inspect(daemon, name)["pid"]
        os.kill(pid, signal.SIGKILL)
        _until(lambda pid=pid: _running_again(daemon, name, pid))
        assert _inspect(daemon, name)["restarts"] == restarts


def test_a_wanted_status_of_stopped_lets_go_of_a_container(daemon: Daemon, name: str, image: str) -> None:
    """As a client of containerd's restart monitor says it."""
    labels = ("containerd.io/restart.policy=always", "containerd.io/restart.status=running")
    chosen = [word for label in labels for word in ("--label", label)]
    daemon.must(daemon.ctr("run", "-d", *chosen, f"docker.io/library/{image}:latest", name, "sleep", "1000"))
    daemon.must(daemon.ctr("containers", "label", name, "containerd.io/restart.status=stopped"))
    os.kill(_inspect(daemon, name)["pid"], signal.SIGKILL)
    _until(lambda: _inspect(daemon, name)["state"] == "stopped")
    time.sleep(AGAIN)
    assert _inspect(daemon, name)["state"] == "stopped"
    assert _inspect(daemon, name)["restarts"] == 0


def test_the_events_of_restarts_tell_of_growing_pauses(daemon: Daemon, name: str) -> None:
    """Each run begins after the end of the one before, and not before its pause is over."""
    _run(daemon, name, "on-failure:3", "false")
    _until(lambda: _inspect(daemon, name)["restarts"] == 3 and _inspect(daemon, name)["state"] == "stopped")
    container = _inspect(daemon, name)["id"]
    said = daemon.must(daemon.orlop("events", "--since", "1m", "--until", "0s", "--output", "json"))
    events = [event for event in map(json.loads, said.splitlines()) if event["topic"].startswith("/tasks/")]
    mine = [event for event in events if _field(event, "container_id") == container]
    assert [event["topic"].removeprefix("/tasks/") for event in mine] == [
        *("create", "start", "exit"),
        *("delete", "create", "start", "exit") * 3,
    ]
    ends = [datetime.fromisoformat(event["at"]) for event in mine if event["topic"] == "/tasks/exit"]
    starts = [datetime.fromisoformat(event["at"]) for event in mine if event["topic"] == "/tasks/start"]
    pauses = [(start - end).total_seconds() for start, end in zip(starts[1:], ends, strict=False)]
    assert all(pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.4), strict=True)), pauses


def _field(event: dict[str, Any], name: str) -> Any:
    found = event["event"] or {}
    return found.get(name) or found.get("containerId")

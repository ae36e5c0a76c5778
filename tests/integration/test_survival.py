"""What the daemon suffers, its containers do not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import BIN, Daemon, cgroups_of, eventually, mounts_under, processes_naming

pytestmark = pytest.mark.timeout(180)

TICKS = "trap exit TERM; n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.1; done"
UNTIL_TOLD = "while [ ! -e /go ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
def machine(archive: str) -> Iterator[Daemon]:
    """A daemon that these tests share, and kill."""
    with Daemon() as daemon:
        daemon.must(daemon.orlop("import", archive))
        yield daemon


@pytest.fixture
def mortal(machine: Daemon) -> Iterator[Daemon]:
    """That daemon, alive at first, and without a container afterwards."""
    if not machine.running:
        machine.start()
    yield machine
    assert json.loads(machine.must(machine.orlop("ps", "-a", "--output", "json"))) == []


def ticks(daemon: Daemon, name: str) -> list[int]:
    lines = daemon.must(daemon.orlop("logs", name)).splitlines()
    return [int(line.split()[1]) for line in lines]


def end_while_away(daemon: Daemon) -> None:
    """Kill the daemon, have its one container end, and start it again."""
    running = daemon.must(daemon.ctr("tasks", "ls")).splitlines()[1].split()[1]
    root = Path(f"/proc/{running}/root")
    daemon.kill9()
    (root / "go").touch()
    gone = eventually(lambda: not root.parent.exists(), bool, 30)
    assert gone
    daemon.start()


def attached(daemon: Daemon, name: str) -> bytes:
    """The first line that somebody sees who attaches."""
    with subprocess.Popen(
        [BIN / "orlop", "attach", name], env=daemon.environment, stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        line = client.stdout.readline()
        client.kill()
    return line


def test_a_container_lives_through_the_death_of_the_daemon(mortal: Daemon) -> None:
    daemon = mortal
    daemon.must(daemon.orlop("run", "-d", "--name", "clock", "probe", "sh", "-c", TICKS))
    eventually(lambda: ticks(daemon, "clock"), lambda found: len(found) > 3, 30)
    before = ticks(daemon, "clock")[-1]

    daemon.kill9()
    daemon.start()

    (listed,) = json.loads(daemon.must(daemon.orlop("ps", "--output", "json")))
    assert listed["name"] == "clock"
    seen = eventually(lambda: ticks(daemon, "clock"), lambda found: found[-1] > before + 6, 30)
    assert seen == list(range(1, len(seen) + 1)), "output that was written in between is lost or doubled"
    assert b"hi" in daemon.orlop("exec", "clock", "echo", "hi").stdout
    assert b"tick" in attached(daemon, "clock")
    daemon.must(daemon.orlop("stop", "clock"))
    daemon.must(daemon.orlop("rm", "clock"))


def test_an_exit_while_the_daemon_was_away_is_known_afterwards(mortal: Daemon) -> None:
    daemon = mortal
    script = f"{UNTIL_TOLD}; echo bye; exit 42"
    daemon.must(daemon.orlop("run", "-d", "--name", "brief", "probe", "sh", "-c", script))
    end_while_away(daemon)
    assert daemon.must(daemon.orlop("wait", "brief")).strip() == "42"
    assert daemon.must(daemon.orlop("logs", "brief")) == "bye\n"
    daemon.must(daemon.orlop("rm", "brief"))


def test_auto_remove_is_kept_over_the_death_of_the_daemon(mortal: Daemon) -> None:
    daemon = mortal
    daemon.must(daemon.orlop("run", "-d", "--rm", "--name", "passing", "probe", "sh", "-c", UNTIL_TOLD))
    end_while_away(daemon)
    listed = eventually(
        lambda: json.loads(daemon.must(daemon.orlop("ps", "-a", "--output", "json"))),
        lambda found: not found,
        30,
    )
    assert listed == []
    snapshots = eventually(
        lambda: daemon.must(daemon.ctr("snapshots", "ls")), lambda said: "passing" not in said, 10
    )
    assert "passing" not in snapshots


def test_a_container_made_by_ctr_lives_on_too(mortal: Daemon) -> None:
    daemon = mortal
    daemon.must(daemon.ctr("run", "-d", "docker.io/library/probe:latest", "mine", "sleep", "1000"))
    daemon.kill9()
    daemon.start()
    assert "RUNNING" in daemon.must(daemon.ctr("tasks", "ls"))
    assert daemon.must(daemon.ctr("tasks", "exec", "--exec-id", "e1", "mine", "echo", "alive")) == "alive\n"
    daemon.must(daemon.ctr("tasks", "kill", "-s", "9", "mine"))
    eventually(lambda: daemon.ctr("tasks", "ls").stdout, lambda said: b"STOPPED" in said, 30)
    assert daemon.ctr("tasks", "rm", "mine").returncode in {0, 137}
    daemon.must(daemon.ctr("containers", "rm", "mine"))


def test_a_reboot_takes_what_ran_and_leaves_what_can_be_started_anew(mortal: Daemon) -> None:
    daemon = mortal
    daemon.must(daemon.orlop("run", "-d", "--name", "clockwork", "probe", "sh", "-c", TICKS))
    eventually(lambda: ticks(daemon, "clockwork"), lambda found: len(found) > 3, 30)
    daemon.kill9()
    reboot(daemon)
    daemon.start()
    (listed,) = json.loads(daemon.must(daemon.orlop("ps", "-a", "--output", "json")))
    assert listed["state"] != "running"
    before = ticks(daemon, "clockwork")
    daemon.must(daemon.orlop("start", "clockwork"))
    eventually(lambda: ticks(daemon, "clockwork"), lambda found: len(found) > len(before) + 3, 30)
    daemon.must(daemon.orlop("stop", "clockwork"))
    daemon.must(daemon.orlop("rm", "clockwork"))


def reboot(daemon: Daemon) -> None:
    """Do to a daemon that is dead what a reboot does: no process, no mount, no control group, no state."""
    for group in cgroups_of(daemon.namespace):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.kill(int(pid), signal.SIGKILL)
    for pid in processes_naming(str(daemon.folder)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: processes_naming(str(daemon.folder)), lambda found: not found, 20)
    for point in mounts_under(daemon.folder):
        subprocess.run(["umount", "-l", point], check=True)
    for group in sorted(cgroups_of(daemon.namespace), key=lambda path: -len(path.parts)):
        eventually(lambda group=group: (group / "cgroup.procs").read_text(), lambda found: not found, 20)
        group.rmdir()
    shutil.rmtree(daemon.state)


DYING = """
import os, signal
from orlopd.plugin import hookimpl

@hookimpl
def orlop_adjust_spec(spec):
    if "DIE=now" in spec["process"]["env"]:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_container_that_was_half_made_when_the_daemon_died_leaves_nothing(archive: str) -> None:
    with Daemon(plugins={"dying.py": DYING}) as daemon:
        daemon.must(daemon.orlop("import", archive))
        daemon.must(daemon.orlop("create", "--name", "whole", "probe", "true"))
        assert daemon.orlop("create", "--env", "DIE=now", "probe", "true").returncode
        daemon.kill9()
        daemon.start()
        (listed,) = json.loads(daemon.must(daemon.orlop("ps", "-a", "--output", "json")))
        assert listed["name"] == "whole"
        snapshots = daemon.must(daemon.ctr("snapshots", "ls")).splitlines()[1:]
        assert [line.split()[0] for line in snapshots if line.split()[-1] == "Active"] == [listed["id"]]
        assert [folder.name for folder in daemon.root.glob("containers/*/*")] == [listed["id"]]
        daemon.must(daemon.orlop("rm", "whole"))

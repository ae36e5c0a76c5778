"""Docker on our socket: the real dockerd and its client, with their default bridge."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.docker import CLIENT, Docker, dockerd
from tests.support.images import busybox_layer, make_image, save_archive, save_docker_archive, text_layer
from tests.support.tmux import Terminal, once_of_size

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def below() -> Iterator[Daemon]:
    """The daemon below dockerd."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="module")
def docker(below: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    archive = save_docker_archive(tmp_path_factory.mktemp("archive") / "probe.tar", "probe:latest")
    with dockerd(str(below.socket)) as made:
        made.must("load", "-i", str(archive))
        yield made


@pytest.fixture
def box(docker: Docker) -> Iterator[str]:
    """A container in the background that says something first."""
    name = "box"
    docker.must("run", "-d", "--name", name, "probe", "sh", "-c", "echo started; exec sleep 1000")
    _until(lambda: docker.must("logs", name) == "started\n")
    yield name
    docker.must("rm", "-f", name)


def test_run_gives_output_input_and_exit_code(docker: Docker) -> None:
    done = docker("run", "--rm", "-i", "probe", "sh", "-c", "cat; echo wrong >&2; exit 7", stdin="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\n", "wrong\n")
    assert docker.must("ps", "-aq") == ""


def test_a_command_that_is_not_there_is_127(docker: Docker) -> None:
    done = docker("run", "--rm", "probe", "nosuch")
    assert done.returncode == 127
    assert "executable file not found" in done.stderr


def test_the_default_bridge_gives_the_container_an_address(docker: Docker, box: str) -> None:
    (found,) = json.loads(docker.must("inspect", box))
    assert found["NetworkSettings"]["IPAddress"].startswith("172.")
    assert docker.must("exec", box, "cat", "/sys/class/net/eth0/operstate") == "up\n"


def test_exec_stats_and_top_look_into_it(docker: Docker, box: str) -> None:
    done = docker("exec", "-i", box, "sh", "-c", "cat; exit 3", stdin="in\n")
    assert (done.returncode, done.stdout) == (3, "in\n")
    stats = json.loads(docker.must("stats", "--no-stream", "--format", "{{json .}}", box))
    assert stats["PIDs"] == "1"
    assert "sleep 1000" in docker.must("top", box)


def test_pause_and_unpause(docker: Docker, box: str) -> None:
    docker.must("pause", box)
    assert _state(docker, box) == "paused"
    docker.must("unpause", box)
    assert _state(docker, box) == "running"


def test_update_changes_the_limits_of_what_runs(docker: Docker, box: str) -> None:
    docker.must("update", "--memory", "64m", "--memory-swap", "64m", box)
    (found,) = json.loads(docker.must("inspect", box))
    lines = Path(f"/proc/{found['State']['Pid']}/cgroup").read_text().splitlines()
    group = next(line.split(":")[2] for line in lines if ":memory:" in line)
    assert Path(f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes").read_text() == f"{64 << 20}\n"


def test_restart_starts_it_anew_and_stop_ends_it(docker: Docker, box: str) -> None:
    docker.must("restart", "-t", "1", box)
    _until(lambda: docker.must("logs", box) == "started\nstarted\n")
    assert _state(docker, box) == "running"
    docker.must("stop", "-t", "1", box)
    assert _state(docker, box) == "exited"
    (found,) = json.loads(docker.must("inspect", box))
    assert found["State"]["ExitCode"] == 137


def test_a_person_sits_in_its_shell(docker: Docker, tmp_path: Path) -> None:
    command = shlex.join([CLIENT, "-H", f"unix://{docker.socket}"])
    with Terminal(tmp_path, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}) as terminal:
        terminal.type(f"{command} run -it --rm -e PS1='inside> ' probe sh")
        terminal.wait_for("inside>", count=2, seconds=30)
        terminal.type(once_of_size(30, 100))  # docker tells the size a moment after the start
        terminal.wait_for("30 100")
        terminal.resize(120, 40)
        terminal.type(once_of_size(40, 120))
        terminal.wait_for("40 120")
        terminal.type("exit 7")
        terminal.wait_for("host>", count=2, seconds=30)
        terminal.type("echo code=$?")
        terminal.wait_for("code=7")


def test_archives_go_both_ways(docker: Docker, below: Daemon, tmp_path: Path) -> None:
    image = make_image([busybox_layer(), text_layer("etc/motd", "carried\n")])
    config = image.document()["config"]["digest"]
    name = "docker.io/library/carried:1"
    below.must(below.orlop("import", save_archive(tmp_path / "in.tar", name, image=image)))
    below.must(below.orlop("export", "-o", tmp_path / "out.tar", name))
    assert "carried:1" in docker.must("load", "-i", str(tmp_path / "out.tar"))
    assert docker.must("inspect", "-f", "{{.Id}}", "carried:1").strip() == config
    assert docker.must("run", "--rm", "carried:1", "cat", "/etc/motd") == "carried\n"
    docker.must("save", "-o", str(tmp_path / "back.tar"), "carried:1")
    below.must(below.orlop("rmi", name))
    below.must(below.orlop("import", tmp_path / "back.tar"))
    assert below.must(below.orlop("run", "--rm", name, "cat", "/etc/motd")) == "carried\n"
    assert config in below.must(below.ctr("content", "ls", "-q"))
    below.must(below.orlop("rmi", name))
    docker.must("rmi", "carried:1")


def _state(docker: Docker, name: str) -> str:
    return docker.must("inspect", "-f", "{{.State.Status}}", name).strip()


def _until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)

"""Swapping the snapshotter is one word, and every container behaves the same on each."""

from __future__ import annotations

import json
import secrets

import pytest

from tests.support.daemon import Daemon

SNAPSHOTTERS = ("overlayfs", "vfs", "erofs")


@pytest.fixture(scope="module", autouse=True)
def warm(daemon: Daemon, image: str) -> None:
    """Have each do what it does once: erofs keeps a layer's image mounted while the daemon runs."""
    for name in SNAPSHOTTERS:
        daemon.must(daemon.orlop("run", "--rm", "--snapshotter", name, image, "true"))


@pytest.fixture(params=SNAPSHOTTERS)
def snapshotter(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def name() -> str:
    return f"snap-{secrets.token_hex(4)}"


def test_standard_input_reaches_the_shell_and_its_end_ends_it(
    daemon: Daemon, image: str, snapshotter: str
) -> None:
    done = daemon.orlop(
        "run", "-i", "--rm", "--snapshotter", snapshotter, image, "sh", stdin="echo hi $((1+2))\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi 3\n", b"")


def test_the_container_says_which_snapshotter_it_is_on(
    daemon: Daemon, image: str, snapshotter: str, name: str
) -> None:
    daemon.must(daemon.orlop("create", "--name", name, "--snapshotter", snapshotter, image, "true"))
    (described,) = json.loads(daemon.must(daemon.orlop("inspect", name)))
    assert described["snapshotter"] == snapshotter
    assert described["id"] in daemon.must(daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls"))
    daemon.must(daemon.orlop("rm", name))
    assert described["id"] not in daemon.must(daemon.ctr("snapshots", "--snapshotter", snapshotter, "ls"))


def test_what_one_container_writes_no_other_sees(daemon: Daemon, image: str, snapshotter: str) -> None:
    chosen = ("run", "--rm", "--snapshotter", snapshotter, image, "sh", "-c")
    daemon.must(daemon.orlop(*chosen, "echo mine >/etc/motd; rm /bin/true; cat /etc/motd"))
    said = daemon.must(daemon.orlop(*chosen, "ls /etc/motd 2>/dev/null; ls /bin/true"))
    assert said == "/bin/true\n"


def test_what_a_container_wrote_is_there_when_it_starts_again(
    daemon: Daemon, image: str, snapshotter: str, name: str
) -> None:
    script = "cat /count 2>/dev/null; echo again >>/count"
    chosen = ("--name", name, "--snapshotter", snapshotter, image, "sh", "-c", script)
    assert daemon.must(daemon.orlop("run", *chosen)) == ""
    assert daemon.must(daemon.orlop("start", "-a", name)) == "again\n"
    assert daemon.must(daemon.orlop("start", "-a", name)) == "again\nagain\n"
    daemon.must(daemon.orlop("rm", name))


@pytest.mark.parametrize("chosen", SNAPSHOTTERS)
def test_the_config_chooses_the_default(archive: str, chosen: str) -> None:
    with Daemon(f'snapshotter = "{chosen}"') as daemon:
        daemon.must(daemon.orlop("import", archive))
        daemon.must(daemon.orlop("create", "--name", "one", "probe", "true"))
        (described,) = json.loads(daemon.must(daemon.orlop("inspect", "one")))
        assert described["snapshotter"] == chosen
        daemon.must(daemon.orlop("rm", "one"))

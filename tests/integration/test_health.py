"""Health checks: run by exec, told in inspect, ps and events, kept over restarts of the daemon."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orlop.values import Build, ContainerSpec, Healthcheck, ImageConfig
from orlop_protos.containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from tests.support.daemon import Daemon, eventually
from tests.support.images import busybox_layer

FAST = ("--health-interval", "100ms", "--health-timeout", "20s", "--health-retries", "2")


@pytest.fixture
def name(daemon: Daemon, image: str, request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = "h-" + request.node.originalname.replace("_", "-")[5:40].strip("-")
    yield chosen
    daemon.orlop("rm", "-f", chosen)


def start(daemon: Daemon, name: str, *options: str) -> None:
    daemon.must(daemon.orlop("run", "-d", "--name", name, *FAST, *options, "probe", "sleep", "1000"))


def seen(daemon: Daemon, name: str) -> dict[str, Any]:
    (found,) = json.loads(daemon.must(daemon.orlop("inspect", "--type", "container", name)))
    return found


def health(daemon: Daemon, name: str, wanted: str) -> dict[str, Any]:
    """A container's health once it is as wanted."""
    return eventually(lambda: seen(daemon, name)["health"], lambda found: found["status"] == wanted, 40)


def execs(daemon: Daemon, name: str) -> list[str]:
    """The execs that a container's shim knows."""
    with daemon.channel() as channel:
        stub: Any = tasks_pb2_grpc.TasksStub(channel)
        request = tasks_pb2.ListPidsRequest(container_id=seen(daemon, name)["id"])
        answer = stub.ListPids(request, metadata=[("containerd-namespace", daemon.namespace)])
    return [each.info.type_url for each in answer.processes if each.HasField("info")]


def test_what_works_is_healthy_and_what_stops_working_is_not(daemon: Daemon, name: str) -> None:
    start(daemon, name, "--health-cmd", "cat /tmp/ok")
    unhealthy = health(daemon, name, "unhealthy")
    assert unhealthy["failing_streak"] >= 2
    assert unhealthy["log"][-1]["exit_code"] == 1
    assert "/tmp/ok" in unhealthy["log"][-1]["output"]
    daemon.must(daemon.orlop("exec", name, "sh", "-c", "echo fine > /tmp/ok"))
    healthy = health(daemon, name, "healthy")
    assert (healthy["failing_streak"], healthy["log"][-1]["output"]) == (0, "fine\n")
    assert len(healthy["log"]) <= 5
    assert "(healthy)" in daemon.must(daemon.orlop("ps"))
    told = daemon.must(
        daemon.orlop("events", "--since", "1h", "--until", "0s", "--filter", 'topic=="/containers/health"')
    )
    states = [word for word in ("unhealthy", "healthy") if f'"{word}"' in told]
    assert states == ["unhealthy", "healthy"]


def test_a_check_that_takes_too_long_is_ended_with_all_it_started(daemon: Daemon, name: str) -> None:
    script = "echo begun; sleep 4567 & sleep 4567"
    start(daemon, name, "--health-timeout", "200ms", "--health-cmd", script)
    found = health(daemon, name, "unhealthy")
    assert found["log"][0]["exit_code"] == -1
    assert "took longer than 0.2 s" in found["log"][0]["output"]
    # On a busy machine the time may be over before the first word.
    said = eventually(
        lambda: [each["output"] for each in seen(daemon, name)["health"]["log"]],
        lambda outputs: any("begun" in output for output in outputs),
        20,
    )
    assert any("begun" in output for output in said)
    daemon.must(daemon.orlop("pause", name))
    daemon.must(daemon.orlop("resume", name))
    processes = eventually(
        lambda: daemon.must(daemon.orlop("exec", name, "ps")).count("sleep 4567"),
        lambda count: count <= 3,
        20,
    )
    assert processes <= 3, "those of earlier checks were left"


def test_failures_at_the_start_do_not_count(daemon: Daemon, name: str) -> None:
    options = ("--health-start-period", "1h", "--health-start-interval", "100ms", "--health-interval", "1h")
    start(daemon, name, *options, "--health-cmd", "test -e /tmp/up")
    found = eventually(lambda: seen(daemon, name)["health"], lambda found: len(found["log"]) >= 4, 40)
    assert (found["status"], found["failing_streak"]) == ("starting", 0)
    assert "(health: starting)" in daemon.must(daemon.orlop("ps"))
    daemon.must(daemon.orlop("exec", name, "touch", "/tmp/up"))
    health(daemon, name, "healthy")


def test_a_program_that_is_not_there_is_a_failure_with_its_reason(daemon: Daemon, name: str) -> None:
    start(daemon, name, "--health-cmd", "nosuch-program")
    assert "nosuch-program" in health(daemon, name, "unhealthy")["log"][-1]["output"]


def test_a_stopped_container_is_not_checked_and_a_new_start_begins_anew(daemon: Daemon, name: str) -> None:
    start(daemon, name, "--health-cmd", "true")
    health(daemon, name, "healthy")
    daemon.must(daemon.orlop("stop", "-t", "0", name))
    before = seen(daemon, name)["health"]["log"]
    time.sleep(0.5)
    assert seen(daemon, name)["health"]["log"] == before
    assert all(each["exit_code"] == 0 for each in before), "the end of the container is no failure"
    daemon.must(daemon.orlop("start", name))
    assert len(health(daemon, name, "healthy")["log"]) <= 5
    assert seen(daemon, name)["health"]["log"][0]["started_at"] > before[-1]["ended_at"]


async def test_an_images_check_is_run_unless_it_is_refused(daemon: Daemon, image: str) -> None:
    async with daemon.connect() as client:
        check = Healthcheck(("CMD", "true"), interval=1, retries=7)

        async def root() -> Any:
            yield busybox_layer()

        await client.images.build(Build("checked", ImageConfig(healthcheck=check)), root())
        details = await client.images.get("checked")
        assert details.config.healthcheck == check
        plain = await client.containers.create(ContainerSpec(image="checked", args=["sleep", "9"]))
        refused = await client.containers.create(
            ContainerSpec(image="checked", args=["sleep", "9"], healthcheck=Healthcheck(("NONE",)))
        )
        async with client.containers.start(plain.id) as session:
            await session.ready()
        async with client.containers.start(refused.id) as session:
            await session.ready()
        found = (await client.containers.get(plain.id)).container.health
        assert found is not None
        assert found.status.value in ("starting", "healthy")
        assert (await client.containers.get(refused.id)).container.health is None
        for each in (plain, refused):
            await client.containers.remove(each.id, force=True)
        await client.images.remove("checked")


def test_health_goes_on_where_a_killed_daemon_left_it(fresh_daemon: Daemon, archive: str) -> None:
    daemon = fresh_daemon
    daemon.must(daemon.orlop("import", archive))
    # Its checks may fail as often as it takes the next daemon to come.
    limits = ("--health-timeout", "2s", "--health-retries", "1000")
    start(daemon, "box", *limits, "--health-cmd", "test -e /tmp/gone && sleep 4321; true")
    before = health(daemon, "box", "healthy")
    # The check that is under way when the daemon dies is to be ended by the next one.
    daemon.must(daemon.orlop("exec", "box", "touch", "/tmp/gone"))
    eventually(lambda: execs(daemon, "box"), lambda found: bool(found), 20)
    daemon.kill9()
    daemon.start()
    kept = seen(daemon, "box")["health"]
    assert kept["log"][0]["started_at"] >= before["log"][0]["started_at"]
    assert kept["status"] == "healthy"
    daemon.must(daemon.orlop("exec", "box", "rm", "/tmp/gone"))
    last = kept["log"][-1]["started_at"]
    after = eventually(
        lambda: seen(daemon, "box")["health"], lambda found: found["log"][-1]["started_at"] > last, 40
    )
    assert after["log"][-1]["started_at"] > last
    assert daemon.must(daemon.orlop("exec", "box", "ps")).count("sleep 4321") <= 1
    daemon.must(daemon.orlop("rm", "-f", "box"))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--health-cmd", "true", "--no-healthcheck"), "exclude each other"),
        (("--health-interval", "1ms", "--health-cmd", "true"), "interval of 0.001 s"),
        (("--health-interval", "soon"), "no time"),
    ],
)
def test_a_check_that_makes_no_sense_is_refused(
    daemon: Daemon, image: str, options: tuple[str, ...], why: str
) -> None:
    done = daemon.orlop("run", "--rm", *options, "probe", "true")
    assert done.returncode
    assert why in done.stderr.decode()

"""Containers come to be, are told apart and listed."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from orlop import errors
from orlop.values import ContainerSpec, ContainerState, Mount
from orlop_protos.orlop.engine.v1 import containers_pb2, containers_pb2_grpc
from tests.support.daemon import Daemon
from tests.support.engine import reason

pytestmark = pytest.mark.timeout(180)


async def test_the_same_idempotency_key_makes_one_container(client: Any) -> None:
    spec = ContainerSpec(image="probe", args=["true"])
    first = await client.containers.create(spec, idempotency_key="once")
    assert (await client.containers.create(spec, idempotency_key="once")).id == first.id
    assert (await client.containers.create(spec, idempotency_key="twice")).id != first.id


async def test_many_at_once_with_one_key_make_one_container(client: Any) -> None:
    made: list[str] = []

    async def create() -> None:
        spec = ContainerSpec(image="probe", args=["true"])
        made.append((await client.containers.create(spec, idempotency_key="together")).id)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(create)
    assert len(set(made)) == 1


async def test_a_name_is_taken_once_and_made_up_otherwise(client: Any) -> None:
    named = await client.containers.create(ContainerSpec(image="probe", args=["true"], name="mine"))
    assert named.name == "mine"
    with pytest.raises(errors.AlreadyExists) as caught:
        await client.containers.create(ContainerSpec(image="probe", args=["true"], name="mine"))
    assert reason(caught) == "NAME_TAKEN"
    unnamed = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
    assert unnamed.name.count("-") == 1
    for reference in (named.id, named.id[:8], "mine"):
        assert (await client.containers.get(reference)).container.id == named.id


async def test_a_beginning_that_two_ids_have_is_refused(client: Any) -> None:
    made: dict[str, str] = {}
    while True:
        container = await client.containers.create(ContainerSpec(image="probe", args=["true"]))
        if container.id[0] in made:
            break
        made[container.id[0]] = container.id
    with pytest.raises(errors.InvalidArgument) as caught:
        await client.containers.get(container.id[0])
    assert reason(caught) == "AMBIGUOUS_ID"


def probe(**spec: Any) -> dict[str, Any]:
    return {"image": "probe", "args": ["true"], **spec}


@pytest.mark.parametrize(
    ("spec", "error", "why"),
    [
        ({"image": "nosuch", "args": ["true"]}, errors.NotFound, "IMAGE_NOT_FOUND"),
        ({"rootfs": "/no/such/root", "args": ["true"]}, errors.NotFound, "ROOTFS_NOT_FOUND"),
        ({"bundle": "/no/such/bundle"}, errors.NotFound, "BUNDLE_NOT_FOUND"),
        ({"scratch": True}, errors.InvalidArgument, "NO_COMMAND"),
        (probe(user="nobody-here"), errors.InvalidArgument, "UNKNOWN_USER"),
        (probe(user="4294967296"), errors.InvalidArgument, "USER_OUT_OF_RANGE"),
        (probe(runtime="nosuch"), errors.NotFound, "NOT_FOUND"),
        (probe(stop_signal="SIGNOT"), errors.InvalidArgument, "UNKNOWN_SIGNAL"),
        (probe(labels={"orlop/name": "x"}), errors.InvalidArgument, "RESERVED_LABEL"),
        (probe(cap_add=["nonsense"]), errors.InvalidArgument, "UNKNOWN_CAPABILITY"),
        (probe(mounts=[Mount("/x", "/no/such")]), errors.NotFound, "MOUNT_SOURCE_NOT_FOUND"),
        (probe(working_dir="/proc/self/fd/7"), errors.InvalidArgument, "WORKING_DIRECTORY_REFUSED"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_reason(
    client: Any, spec: dict[str, Any], error: type[errors.OrlopError], why: str
) -> None:
    with pytest.raises(error) as caught:
        await client.containers.create(ContainerSpec(**spec))
    assert reason(caught) == why
    assert await client.containers.list() == ()


async def test_lists_are_filtered_paged_and_masked(daemon: Daemon, client: Any) -> None:
    made = [
        await client.containers.create(ContainerSpec(image="probe", args=["true"], labels={"n": str(number)}))
        for number in range(5)
    ]
    assert [each.id for each in await client.containers.list()] == [each.id for each in reversed(made)]
    assert [each.id for each in await client.containers.list(["labels.n==3"])] == [made[3].id]
    assert await client.containers.list(states=[ContainerState.RUNNING]) == ()
    with daemon.channel() as channel:
        stub: Any = containers_pb2_grpc.ContainerServiceStub(channel)
        metadata = [("containerd-namespace", daemon.namespace)]
        pages: list[list[str]] = []
        request = containers_pb2.ListContainersRequest(page_size=2)
        request.read_mask.paths.append("name")
        while True:
            answer = stub.ListContainers(request, metadata=metadata)
            assert not any(each.id for each in answer.containers)
            pages.append([each.name for each in answer.containers])
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
    assert [len(page) for page in pages] == [2, 2, 1]
    assert sum(pages, []) == [each.name for each in reversed(made)]  # noqa: RUF017

"""Images, containers, leases and namespaces: what travels, and with which codes it is refused."""

from __future__ import annotations

from google.protobuf import any_pb2, field_mask_pb2, timestamp_pb2

from orlop_protos.containerd.services.containers.v1 import containers_pb2
from orlop_protos.containerd.services.content.v1 import content_pb2
from orlop_protos.containerd.services.images.v1 import images_pb2
from orlop_protos.containerd.services.leases.v1 import leases_pb2
from orlop_protos.containerd.services.namespaces.v1 import namespace_pb2
from orlop_protos.containerd.types import descriptor_pb2
from tests.support.services import HELLO, Client, Code, add, asks, refused
from tests.support.store import MANIFEST, digest_of


async def test_images_over_the_wire(client: Client) -> None:
    digest = await add(client, HELLO)
    target = descriptor_pb2.Descriptor(media_type=MANIFEST, digest=digest, size=12, annotations={"note": "x"})
    image = images_pb2.Image(name="image", target=target, labels={"a": "1"})
    made = (await client.images.Create(images_pb2.CreateImageRequest(image=image))).image
    assert made.HasField("created_at")
    got = (await client.images.Get(images_pb2.GetImageRequest(name="image"))).image
    assert (got.target, dict(got.labels)) == (target, {"a": "1"})
    create = images_pb2.CreateImageRequest(image=image)
    assert await refused(client.images.Create(create)) is Code.ALREADY_EXISTS
    mask = field_mask_pb2.FieldMask(paths=["labels"])
    image.labels["b"] = "2"
    epoch = timestamp_pb2.Timestamp(seconds=1)
    update = images_pb2.UpdateImageRequest(image=image, update_mask=mask, source_date_epoch=epoch)
    assert (await client.images.Update(update)).image.updated_at == epoch
    listed = await client.images.List(images_pb2.ListImagesRequest(filters=["labels.b"]))
    assert [each.name for each in listed.images] == ["image"]
    empty = images_pb2.CreateImageRequest(image=images_pb2.Image(target=target))
    assert await refused(client.images.Create(empty)) is Code.INVALID_ARGUMENT
    bad = images_pb2.ListImagesRequest(filters=["name="])
    assert await refused(client.images.List(bad)) is Code.INVALID_ARGUMENT
    other = descriptor_pb2.Descriptor(digest=digest_of(b"x"))
    delete = images_pb2.DeleteImageRequest(name="image", target=other)
    assert await refused(client.images.Delete(delete)) is Code.NOT_FOUND
    await client.images.Delete(images_pb2.DeleteImageRequest(name="image", sync=True))
    # With sync what the image kept is gone.
    assert await refused(client.content.Info(content_pb2.InfoRequest(digest=digest))) is Code.NOT_FOUND


async def test_containers_over_the_wire(client: Client) -> None:
    container = containers_pb2.Container(
        id="box",
        image="image",
        runtime=containers_pb2.Container.Runtime(
            name="runc", options=any_pb2.Any(type_url="options", value=b"\xff")
        ),
        spec=any_pb2.Any(type_url="spec", value=b"{}"),
        snapshotter="mem",
        snapshot_key="key",
        labels={"a": "1"},
        extensions={"e": any_pb2.Any(type_url="ext", value=b"\x00")},
        sandbox="pod",
    )
    request = containers_pb2.CreateContainerRequest(container=container)
    made = (await client.containers.Create(request)).container
    got = (await client.containers.Get(containers_pb2.GetContainerRequest(id="box"))).container
    assert got == made
    for field in ("created_at", "updated_at"):
        assert got.HasField(field)
        got.ClearField(field)
    assert got == container
    mask = field_mask_pb2.FieldMask(paths=["image"])
    container.image = "other"
    update = containers_pb2.UpdateContainerRequest(container=container, update_mask=mask)
    assert (await client.containers.Update(update)).container.image == "other"
    everything = containers_pb2.ListContainersRequest(filters=["image==other"])
    assert [each.id for each in (await client.containers.List(everything)).containers] == ["box"]
    stream = client.containers.ListStream(everything)
    assert [each.container.id async for each in stream] == ["box"]
    assert await refused(client.containers.Create(request)) is Code.ALREADY_EXISTS
    container.ClearField("spec")
    container.id = "other"
    bad = containers_pb2.CreateContainerRequest(container=container)
    assert await refused(client.containers.Create(bad)) is Code.INVALID_ARGUMENT
    delete = containers_pb2.DeleteContainerRequest(id="box")
    await client.containers.Delete(delete)
    assert await refused(client.containers.Delete(delete)) is Code.NOT_FOUND


async def test_leases_over_the_wire(client: Client) -> None:
    lease = (await client.leases.Create(leases_pb2.CreateRequest(labels={"a": "1"}))).lease
    assert lease.id
    leased = client.with_headers(containerd_lease=lease.id)
    digest = await add(leased, HELLO)
    resources = (await client.leases.ListResources(leases_pb2.ListResourcesRequest(id=lease.id))).resources
    assert [(each.type, each.id) for each in resources] == [("content", digest)]
    more = leases_pb2.Resource(type="snapshots/mem", id="key")
    await client.leases.AddResource(leases_pb2.AddResourceRequest(id=lease.id, resource=more))
    await client.leases.DeleteResource(leases_pb2.DeleteResourceRequest(id=lease.id, resource=more))
    listed = (await client.leases.List(leases_pb2.ListRequest(filters=["labels.a==1"]))).leases
    assert [each.id for each in listed] == [lease.id]
    await client.store.gc.collect()
    await client.content.Info(content_pb2.InfoRequest(digest=digest))
    odd = leases_pb2.AddResourceRequest(id=lease.id, resource=leases_pb2.Resource(type="tasks", id="x"))
    assert await refused(client.leases.AddResource(odd)) is Code.UNIMPLEMENTED
    await client.leases.Delete(leases_pb2.DeleteRequest(id=lease.id, sync=True))
    assert await refused(client.content.Info(content_pb2.InfoRequest(digest=digest))) is Code.NOT_FOUND
    write_ = leased.content.Write(iter(asks({"ref": "ref"})))
    assert await refused(write_) is Code.NOT_FOUND


async def test_namespaces_over_the_wire(client: Client) -> None:
    nameless = client.with_headers(containerd_namespace="")
    made = namespace_pb2.Namespace(name="made", labels={"a": "1"})
    await nameless.namespaces.Create(namespace_pb2.CreateNamespaceRequest(namespace=made))
    made.labels["b"] = "2"
    mask = field_mask_pb2.FieldMask(paths=["labels.b"])
    await nameless.namespaces.Update(namespace_pb2.UpdateNamespaceRequest(namespace=made, update_mask=mask))
    got = await nameless.namespaces.Get(namespace_pb2.GetNamespaceRequest(name="made"))
    assert got.namespace == made
    listed = (await nameless.namespaces.List(namespace_pb2.ListNamespacesRequest())).namespaces
    assert list(listed) == [made]
    await client.leases.Create(leases_pb2.CreateRequest(id="x"))
    delete = nameless.namespaces.Delete
    await delete(namespace_pb2.DeleteNamespaceRequest(name="made"))
    assert await refused(delete(namespace_pb2.DeleteNamespaceRequest(name="made"))) is Code.NOT_FOUND
    await add(client, HELLO)
    held = delete(namespace_pb2.DeleteNamespaceRequest(name="testing"))
    assert await refused(held) is Code.FAILED_PRECONDITION
    missing = nameless.images.List(images_pb2.ListImagesRequest())
    assert await refused(missing) is Code.FAILED_PRECONDITION

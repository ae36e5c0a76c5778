"""A namespace's labels say which snapshotter and runtime its containers get."""

from __future__ import annotations

import pytest

from orlop import errors
from orlop.values import ContainerSpec
from tests.support.daemon import Daemon

pytestmark = pytest.mark.timeout(180)


async def test_the_labels_of_a_namespace_choose_snapshotter_and_runtime(
    fresh_daemon: Daemon, archive: str
) -> None:
    daemon = fresh_daemon
    namespace = daemon.namespace
    daemon.must(
        daemon.ctr(
            *("-n", namespace, "namespaces", "create", namespace),
            "containerd.io/defaults/snapshotter=native",
            "containerd.io/defaults/runtime=io.containerd.runc.v2",
        )
    )
    daemon.must(daemon.orlop("import", archive))

    def snapshots(snapshotter: str) -> int:
        said = daemon.must(daemon.ctr("-n", namespace, "snapshots", "--snapshotter", snapshotter, "ls"))
        return len(said.splitlines()) - 1

    # An import unpacks for the default; "native" is what containerd calls vfs.
    assert (snapshots("overlayfs"), snapshots("vfs") > 0) == (0, True)
    async with daemon.connect() as client:
        made = (await client.containers.create(ContainerSpec(image="probe", args=["true"]))).id
        container = (await client.containers.get(made)).container
        assert (container.snapshotter, container.runtime) == ("native", "io.containerd.runc.v2")
        explicit = ContainerSpec(image="probe", args=["true"], snapshotter="overlayfs")
        other = (await client.containers.create(explicit)).id
        assert (await client.containers.get(other)).container.snapshotter == "overlayfs"
        label = ("-n", namespace, "namespaces", "label", namespace)
        daemon.must(daemon.ctr(*label, "containerd.io/defaults/runtime=io.example.none.v1"))
        with pytest.raises(errors.OrlopError, match=r"io\.example\.none\.v1"):
            await client.containers.create(ContainerSpec(image="probe", args=["true"]))
        daemon.must(
            daemon.ctr(*label, "containerd.io/defaults/runtime=", "containerd.io/defaults/snapshotter=")
        )
        plain = (await client.containers.create(ContainerSpec(image="probe", args=["true"]))).id
        assert (await client.containers.get(plain)).container.snapshotter == "overlayfs"
        for each in (made, other, plain):
            await client.containers.remove(each)

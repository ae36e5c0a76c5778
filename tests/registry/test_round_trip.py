"""Images and artifacts go out by us, in and out by others, and come back with every digest they had."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.registry.conftest import SCOPE, Rig, open_rig
from tests.registry.test_push import artifact, both, digest_of, here, raw, skopeo
from tests.support.containerd import Peer, containerd
from tests.support.daemon import Daemon, daemon
from tests.support.images import SmallImage, busybox_layer, make_image, text_layer
from tests.support.podman import Podman, podman
from tests.support.registry import Registry

__all__ = ["daemon"]

NAME = "docker.io/library/trip:1"


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with containerd() as running:
        yield running


def ctr(peer: Peer, *words: str) -> str:
    done = subprocess.run(["ctr", "-a", peer.address, *words], capture_output=True, timeout=60)
    assert done.returncode == 0, (words, done.stderr.decode())
    return done.stdout.decode()


class Sent:
    """What we pushed: an image for two platforms, and two artifacts about it."""

    def __init__(self, server: Registry, folder: str, index: SmallImage, notes: list[SmallImage]) -> None:
        self.repository = f"{server.address}/trip/{folder}"
        self.index = index
        self.notes = notes
        self.image = f"{self.repository}:1"
        self.list = f"{self.repository}:{index.digest.replace(':', '-')}"

    @property
    def names(self) -> list[str]:
        """The image, the artifacts and the list of them."""
        return [self.image, *(f"{self.repository}@{note.digest}" for note in self.notes), self.list]

    @property
    def blobs(self) -> set[str]:
        return {digest for each in (self.index, *self.notes) for digest in each.blobs}


@pytest.fixture
async def sent(rig: Rig, server: Registry, request: pytest.FixtureRequest) -> Sent:
    mark = request.node.name[5:35].strip("_")
    index = both(mark)
    notes = [artifact(f"{mark} {each}", index.target) for each in ("x", "y")]
    sent = Sent(server, mark, index, notes)
    await rig.push(await here(rig, index, NAME), sent.image)
    for note in notes:
        name = await here(rig, note, f"docker.io/library/note@{note.digest}")
        await rig.push(name, f"{sent.repository}@{note.digest}")
    return sent


async def came_back(tmp_path: Path, sent: Sent, repository: str, *, listed: bool = True) -> None:
    """Pulled by somebody who has nothing yet, all of it is what it was.

    :param listed: the list of artifacts, too
    """
    async with open_rig(tmp_path / "other") as other:
        pulled = await other.pull(f"{repository}:1", unpack=False, also=None)
        assert pulled.target.digest == sent.index.digest
        if listed:
            found = await other.referrers.find(f"{repository}:1")
            assert {each.digest for each in found.listed} == {note.digest for note in sent.notes}
        for note in sent.notes:
            await other.pull(f"{repository}@{note.digest}", unpack=False)
        assert await other.digests() == sent.blobs


async def test_by_skopeo_and_back(sent: Sent, tmp_path: Path) -> None:
    back = f"{sent.repository}-back"
    keep = ("copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
    # The skopeo of Debian 12 does not know artifactType, and would drop it from the list.
    for number, name in enumerate(name for name in sent.names if name != sent.list):
        folder = f"oci:{tmp_path}/{number}:x"
        skopeo(*keep, f"docker://{name}", folder)
        skopeo(*keep, folder, f"docker://{back}{name.removeprefix(sent.repository)}")
    await came_back(tmp_path, sent, back, listed=False)


async def test_by_containerd_and_back(sent: Sent, peer: Peer, tmp_path: Path) -> None:
    back = f"{sent.repository}-back"
    for name in sent.names:
        ctr(peer, "content", "fetch", "--plain-http", "--all-platforms", name)
        target = f"{back}{name.removeprefix(sent.repository)}"
        ctr(peer, "images", "push", "--plain-http", target, name)
    await came_back(tmp_path, sent, back)


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with podman(tmp_path_factory.mktemp("podman")) as made:
        yield made


def running(mark: str) -> SmallImage:
    return make_image([busybox_layer(), text_layer("etc/motd", f"hello {mark}\n")])


async def test_by_podman_and_back(rig: Rig, server: Registry, pod: Podman) -> None:
    image = running("podman")
    reference = f"{server.address}/trip/podman:1"
    await rig.push(await here(rig, image, "docker.io/library/pod:1"), reference)
    pod.must("pull", "-q", "--tls-verify=false", reference)
    [shown] = json.loads(pod.must("image", "inspect", reference))
    assert shown["Digest"] == image.digest
    assert shown["Id"] == image.document()["config"]["digest"].removeprefix("sha256:")
    back = f"{server.address}/trip/podman-back:1"
    pod.must("push", "-q", "--tls-verify=false", reference, f"docker://{back}")
    # What comes back is a manifest of podman's own writing, on the very same configuration and layers.
    document = json.loads(raw(back))
    assert document["config"]["digest"] == image.document()["config"]["digest"]
    assert [layer["digest"] for layer in document["layers"]] == image.layers
    await rig.pull(back)


async def read(path: Path) -> AsyncIterator[bytes]:
    yield await anyio.Path(path).read_bytes()


async def test_an_export_loads_in_podman_and_what_it_saves_is_imported(
    rig: Rig, pod: Podman, tmp_path: Path
) -> None:
    image = running("archives")
    name = await here(rig, image, "docker.io/library/archives:1")
    config = image.document()["config"]["digest"]
    exported = tmp_path / "exported.tar"
    async with await anyio.open_file(exported, "wb") as file:
        async for piece in rig.archiver.export_archive(SCOPE, [name]):
            await file.write(piece)
    pod.must("load", "-q", "-i", str(exported))
    [shown] = json.loads(pod.must("image", "inspect", name))
    assert shown["Id"] == config.removeprefix("sha256:")
    mounted = pod.must("image", "mount", name).strip()
    assert await anyio.Path(mounted, "etc/motd").read_text() == "hello archives\n"
    for form in ("oci-archive", "docker-archive"):
        saved = tmp_path / f"{form}.tar"
        pod.must("save", "-q", "--format", form, "-o", str(saved), name)
        async with open_rig(tmp_path / form) as other:
            [taken] = await other.archiver.import_archive(SCOPE, read(saved), "docker.io/library/archives:1")
            found, diff_ids, manifest = await other.stored.image_config(SCOPE, taken.target)
            assert manifest.config.digest == config
            assert found.cmd == ("sh",)
            assert len(diff_ids) == 2


async def test_what_is_for_others_alone_goes_through_as_well(
    rig: Rig, server: Registry, tmp_path: Path
) -> None:
    """Attestations: fetched by choice, kept, and pushed as they were; never taken for what is to run."""
    image = both("attested")
    document = image.document()
    entries: list[Any] = document["manifests"]
    statement = artifact("attestation", entries[0])
    entries.append(
        {
            **statement.target,
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": entries[0]["digest"],
            },
        }
    )
    data = json.dumps(document).encode()
    target = {"mediaType": document["mediaType"], "digest": digest_of(data), "size": len(data)}
    blobs = {digest: value for digest, value in image.blobs.items() if digest != image.digest}
    attested = SmallImage(target, {**blobs, **statement.blobs, target["digest"]: data})
    reference = f"{server.address}/trip/attested:1"
    await rig.push(await here(rig, attested, "docker.io/library/attested:1"), reference)
    async with open_rig(tmp_path / "one") as one:
        await one.pull(reference)
        assert not await one.digests() & set(statement.blobs)
    async with open_rig(tmp_path / "all") as every:
        await every.pull(reference, also=None)
        assert await every.digests() == set(attested.blobs)
        await every.push(reference, f"{server.address}/trip/attested-back:1")
    assert digest_of(raw(f"{server.address}/trip/attested-back:1")) == attested.digest


def test_ctr_pulls_pushes_and_runs_through_us(daemon: Daemon, server: Registry) -> None:
    """Debian's ctr does all of it itself, over Content, Leases, Snapshots, Diff and Images."""
    image = running("ctr")
    reference = server.push("trip/ctr:1", image)
    daemon.must(daemon.ctr("images", "pull", "--plain-http", reference))
    assert server.fetched(image.layers[1]) == 1
    back = f"{server.address}/trip/ctr-back:1"
    daemon.must(daemon.ctr("images", "push", "--plain-http", back, reference))
    assert digest_of(raw(back)) == image.digest
    said = daemon.must(daemon.ctr("run", "--rm", reference, "tripping", "cat", "/etc/motd"))
    assert said == "hello ctr\n"
    # What it unpacked is unpacked for us as well.
    assert daemon.must(daemon.orlop("run", "--rm", reference, "cat", "/etc/motd")) == "hello ctr\n"
    assert daemon.must(daemon.ctr("leases", "ls", "-q")) == ""
    daemon.must(daemon.orlop("rmi", reference))

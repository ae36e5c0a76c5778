"""Pushing: to a real registry and read back by others; broken off and taken up; refused with a reason."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orlopd.core.progress import BlobState
from orlopd.plugin import Credentials, ResolveOptions
from orlopd.plugin.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from orlopd.plugin.values import Platform
from tests.registry.conftest import FAST, SCOPE, Rig, open_rig
from tests.support.containerd import containerd
from tests.support.faulty import FaultyRegistry, Handler, faulty_registry
from tests.support.images import (
    ARCHITECTURE,
    MANIFEST,
    SmallImage,
    digest_of,
    layout_tar,
    make_image,
    make_index,
    text_layer,
)
from tests.support.registry import SECRET_WORD, Registry, registry

ELSEWHERE = "riscv64"


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def here(rig: Rig, image: SmallImage, name: str) -> str:
    """Have an image in the store under a name, whole, as an archive brings it."""
    data = layout_tar(image, [image.target | {"annotations": {"io.containerd.image.name": name}}])
    await rig.archiver.import_archive(SCOPE, chunks(data), unpack=False)
    return name


def small(mark: str) -> SmallImage:
    return make_image([text_layer("one", f"1 {mark}"), text_layer("two", f"2 {mark}")])


def both(mark: str) -> SmallImage:
    """An image for two platforms."""
    other = make_image([text_layer("o", f"other {mark}")], architecture=ELSEWHERE)
    return make_index({f"linux/{ARCHITECTURE}": small(mark), f"linux/{ELSEWHERE}": other})


def artifact(mark: str, subject: dict[str, Any]) -> SmallImage:
    """Something that is no image, about something else."""
    note, empty = f"a note {mark}".encode(), b"{}"
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.tests.note",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": digest_of(empty),
            "size": len(empty),
        },
        "layers": [{"mediaType": "text/plain", "digest": digest_of(note), "size": len(note)}],
        "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
        "annotations": {"by": "tests"},
    }
    data = json.dumps(document).encode()
    target = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    return SmallImage(target, {digest_of(each): each for each in (data, note, empty)})


def skopeo(*words: str) -> str:
    done = subprocess.run(["skopeo", *words], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def raw(reference: str) -> bytes:
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}").encode()


def by_containerd(reference: str) -> set[str]:
    """The content that Debian's containerd has when it has pulled."""
    with containerd() as peer:
        ctr = ["ctr", "-a", peer.address]
        words = ["images", "pull", "--plain-http", "--all-platforms", reference]
        done = subprocess.run([*ctr, *words], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        listed = subprocess.run([*ctr, "content", "ls", "-q"], capture_output=True, timeout=60)
        return set(listed.stdout.decode().split())


async def test_what_is_pushed_is_read_by_skopeo_and_containerd_with_every_digest_kept(
    rig: Rig, server: Registry, tmp_path: Path
) -> None:
    index = both("round trip")
    target = f"{server.address}/push/both:1"
    pushed = await rig.push(await here(rig, index, "docker.io/library/both:1"), target)
    assert (pushed.name, pushed.digest) == (target, index.digest)
    assert digest_of(raw(target)) == index.digest
    copy = f"oci:{tmp_path}/copy:1"
    skopeo("copy", "--all", "--preserve-digests", "--src-tls-verify=false", f"docker://{target}", copy)
    found = {f"sha256:{path.name}" for path in (tmp_path / "copy/blobs/sha256").iterdir()}
    assert found == set(index.blobs)
    assert by_containerd(target) == set(index.blobs)


async def test_progress_is_told_and_what_is_there_is_not_sent_again(rig: Rig, server: Registry) -> None:
    image = small("twice")
    name = await here(rig, image, "docker.io/library/twice:1")
    target = f"{server.address}/push/twice:1"
    await rig.push(name, target)
    layer = image.layers[0]
    assert rig.resolved[0].digest == image.digest
    assert rig.states(layer) == [BlobState.WAITING, BlobState.PUSHING, BlobState.PUSHED]
    rig.events.clear()
    before = len(server.requests)
    await rig.push(name, target)
    assert rig.states(layer) == [BlobState.WAITING, BlobState.EXISTS]
    assert {each.method for each in server.requests[before:]} <= {"HEAD", "GET"}
    assert (await rig.left())["leases"] == []


async def test_a_blob_is_mounted_from_where_it_came_from(rig: Rig, server: Registry) -> None:
    image = small("mounted")
    reference = server.push("push/origin:1", image)
    await rig.pull(reference)
    await rig.push(reference, f"{server.address}/push/mounted:1")
    assert rig.states(image.layers[0])[-1] is BlobState.MOUNTED
    assert digest_of(raw(f"{server.address}/push/mounted:1")) == image.digest


async def test_one_platform_of_an_index_can_be_pushed(rig: Rig, server: Registry) -> None:
    mine = small("one platform")
    other = make_image([text_layer("o", "o")], architecture=ELSEWHERE)
    index = make_index({f"linux/{ARCHITECTURE}": mine, f"linux/{ELSEWHERE}": other})
    name = await here(rig, index, "docker.io/library/one:1")
    target = f"{server.address}/push/one:1"
    pushed = await rig.push(name, target, platforms=[Platform("linux", ARCHITECTURE)])
    assert pushed.digest == mine.digest == digest_of(raw(target))
    name, before = await here(rig, other, "docker.io/library/lone:1"), len(server.requests)
    with pytest.raises(NotFound, match=f"is for linux/{ELSEWHERE}, not for linux/{ARCHITECTURE}"):
        await rig.push(name, target, platforms=[Platform("linux", ARCHITECTURE)])
    assert len(server.requests) == before


async def test_a_part_that_is_nowhere_is_told_before_anything_is_sent(rig: Rig, server: Registry) -> None:
    index = both("partial")
    await rig.pull(server.push("push/partial:1", index))
    before = len(server.requests)
    with pytest.raises(FailedPrecondition, match=f"linux/{ELSEWHERE} is missing") as refused:
        await rig.push(f"{server.address}/push/partial:1", f"{server.address}/push/elsewhere:1")
    assert refused.value.reason == "INCOMPLETE_IMAGE"
    assert {each.method for each in server.requests[before:]} <= {"HEAD", "GET"}
    # Where it came from, the rest is there.
    await rig.push(f"{server.address}/push/partial:1", f"{server.address}/push/partial:2")
    assert digest_of(raw(f"{server.address}/push/partial:2")) == index.digest


async def test_an_artifact_is_listed_among_the_referrers_of_its_subject(rig: Rig, server: Registry) -> None:
    image = small("subject")
    await rig.push(await here(rig, image, "docker.io/library/subject:1"), f"{server.address}/push/subject:1")
    for mark in ("a", "b"):
        note = artifact(mark, image.target)
        name = await here(rig, note, f"docker.io/library/note:{mark}")
        await rig.push(name, f"{server.address}/push/subject:note-{mark}")
        assert digest_of(raw(f"{server.address}/push/subject:note-{mark}")) == note.digest
    tag = image.digest.replace(":", "-")
    listed = json.loads(raw(f"{server.address}/push/subject:{tag}"))["manifests"]
    assert [each["digest"] for each in listed] == [artifact(mark, image.target).digest for mark in ("a", "b")]
    assert {each["artifactType"] for each in listed} == {"application/vnd.tests.note"}


async def test_a_blob_goes_in_pieces_where_the_config_says_so(tmp_path: Path, server: Registry) -> None:
    config = FAST.model_copy(update={"upload_chunk": 1000})
    async with open_rig(tmp_path, config) as rig:
        image = make_image([text_layer("big", "".join(map(str, range(3000))))], compress=False)
        name = await here(rig, image, "docker.io/library/pieces:1")
        before = len(server.requests)
        await rig.push(name, f"{server.address}/push/pieces:1")
        assert sum(each.method == "PATCH" for each in server.requests[before:]) > 3
        assert (await rig.pull(f"{server.address}/push/pieces:1")).target.digest == image.digest


@pytest.fixture(scope="module")
def guarded() -> Iterator[Registry]:
    with registry(htpasswd=f"user:{SECRET_WORD}\n") as running:
        yield running


async def test_credentials_are_needed_where_the_registry_wants_them(rig: Rig, guarded: Registry) -> None:
    image = small("guarded")
    name = await here(rig, image, "docker.io/library/guarded:1")
    target = f"{guarded.address}/push/guarded:1"
    with pytest.raises(Unauthenticated):
        await rig.push(name, target)
    with pytest.raises(Unauthenticated):
        await rig.push(name, target, options=ResolveOptions(Credentials("user", "wrong")))
    asked: list[str] = []

    async def lookup(host: str, challenges: Any) -> Credentials:
        asked.append(host)
        return Credentials("user", "secret-word")

    await rig.push(name, target, options=ResolveOptions(lookup=lookup))
    assert asked[0] == guarded.address
    pulled = await rig.pull(target, options=ResolveOptions(Credentials("user", "secret-word")))
    assert pulled.target.digest == image.digest


def refuse(status: int, body: bytes = b"") -> Callable[[Handler], None]:
    """Answers so, once it has read what came."""

    def answer(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        handler.answer(status, body)

    return answer


class Uploads:
    """A faulty registry that takes uploads into memory."""

    def __init__(self, faulty: FaultyRegistry) -> None:
        self.faulty = faulty
        self.data: dict[str, bytearray] = {}
        self.manifests: dict[str, bytes] = {}
        self.cut_after = -1
        self.numbers = itertools.count()
        faulty.on("POST .*/blobs/uploads/", self.begin)
        faulty.on("PATCH .*/blobs/uploads/", self.patch)
        faulty.on("GET .*/blobs/uploads/", self.status)
        faulty.on("PUT .*/blobs/uploads/", self.commit)
        faulty.on("PUT .*/manifests/", self.manifest)
        faulty.on("HEAD", lambda handler: handler.answer(404))
        faulty.on("GET .*/manifests/", lambda handler: handler.answer(404))
        faulty.on("GET /v2/$", lambda handler: handler.answer(200))

    def _told(self, handler: Handler, status: int) -> None:
        path = handler.path.partition("?")[0]
        end = max(len(self.data[path]) - 1, 0)
        handler.answer(status, b"", {"Location": path, "Range": f"0-{end}"})

    def begin(self, handler: Handler) -> None:
        handler.path = f"/v2/test/image/blobs/uploads/{next(self.numbers)}"
        self.data[handler.path] = bytearray()
        self._told(handler, 202)

    def patch(self, handler: Handler) -> None:
        length = int(handler.headers["Content-Length"])
        cut, self.cut_after = self.cut_after, -1
        if cut >= 0:
            self.data[handler.path] += handler.rfile.read(min(length, cut))
            handler.close_connection = True
            return
        self.data[handler.path] += handler.rfile.read(length)
        self._told(handler, 202)

    def status(self, handler: Handler) -> None:
        self._told(handler, 204)

    def commit(self, handler: Handler) -> None:
        path, _, query = handler.path.partition("?")
        want = query.removeprefix("digest=").replace("%3A", ":")
        handler.answer(201 if digest_of(bytes(self.data[path])) == want else 400)

    def manifest(self, handler: Handler) -> None:
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        self.manifests[handler.path.rpartition("/")[2]] = data
        handler.answer(201, b"", {"Docker-Content-Digest": digest_of(data)})


@pytest.fixture
def taking() -> Iterator[FaultyRegistry]:
    with faulty_registry() as running:
        yield running


async def test_an_upload_that_breaks_off_is_taken_up_where_it_broke(rig: Rig, taking: FaultyRegistry) -> None:
    uploads = Uploads(taking)
    uploads.cut_after = 20
    image = make_image([text_layer("x", "1234567890" * 500)], compress=False)
    await rig.push(await here(rig, image, "docker.io/library/broken:1"), taking.reference)
    assert set(uploads.manifests) == {"1"}
    assert digest_of(uploads.manifests["1"]) == image.digest
    ranges = [seen.header("content-range") for seen in taking.asked("PATCH")]
    assert sum(each.startswith("20-") for each in ranges) == 1
    assert {digest_of(bytes(each)) for each in uploads.data.values()} >= {image.layers[0]}


async def test_trouble_that_passes_is_survived(rig: Rig, taking: FaultyRegistry) -> None:
    for method in ("POST", "PATCH", "PUT .*uploads", "PUT .*manifests"):
        taking.on(method, refuse(503), times=1)
    uploads = Uploads(taking)
    image = small("trouble")
    await rig.push(await here(rig, image, "docker.io/library/trouble:1"), taking.reference)
    assert digest_of(uploads.manifests["1"]) == image.digest


async def test_lasting_trouble_is_one_error_and_no_manifest(rig: Rig, taking: FaultyRegistry) -> None:
    taking.on("PATCH", refuse(500))
    uploads = Uploads(taking)
    name = await here(rig, small("lasting"), "docker.io/library/lasting:1")
    with pytest.raises(Unavailable, match="answered 500"):
        await rig.push(name, taking.reference)
    assert uploads.manifests == {}
    assert (await rig.left())["leases"] == []


async def test_a_refusal_says_why(rig: Rig, taking: FaultyRegistry) -> None:
    name = await here(rig, small("refused"), "docker.io/library/refused:1")
    taking.on("POST", refuse(403))
    Uploads(taking)
    with pytest.raises(PermissionDenied):
        await rig.push(name, taking.reference)
    taking.faults.clear()
    body = json.dumps({"errors": [{"code": "MANIFEST_INVALID", "message": "no such thing"}]}).encode()
    taking.on("PUT .*manifests", refuse(400, body))
    Uploads(taking)
    with pytest.raises(InvalidArgument, match=r"refuses manifest .*no such thing"):
        await rig.push(name, taking.reference)


async def test_cve_2020_15157_an_upload_elsewhere_gets_no_credentials(
    rig: Rig, taking: FaultyRegistry
) -> None:
    with faulty_registry() as elsewhere:
        away = {"Location": f"http://{elsewhere.address}/v2/other/blobs/uploads/1"}
        challenge = {"WWW-Authenticate": 'Basic realm="tests"'}
        taking.faults.append(
            lambda handler, seen: not seen.header("authorization") and not handler.answer(401, b"", challenge)
        )
        taking.on("POST", lambda handler: handler.answer(202, b"", away))
        Uploads(taking)
        elsewhere.on(".", lambda handler: handler.answer(401, b"", challenge))
        name = await here(rig, small("away"), "docker.io/library/away:1")
        options = ResolveOptions(Credentials("user", "secret"), headers={"x-secret": "word"})
        with pytest.raises(Unauthenticated):
            await rig.push(name, taking.reference, options=options)
        assert elsewhere.seen
        assert {seen.header("authorization") for seen in elsewhere.seen} == {""}
        assert {seen.header("x-secret") for seen in elsewhere.seen} == {""}
        assert {seen.header("x-secret") for seen in taking.seen} == {"word"}


async def test_a_source_that_a_label_names_cannot_widen_a_request(rig: Rig, taking: FaultyRegistry) -> None:
    from orlopd.core.content import ContentInfo

    Uploads(taking)
    image = small("label")
    name = await here(rig, image, "docker.io/library/label:1")
    evil = "x:pull repository:other/secret,../../etc,UPPER"
    label = f"containerd.io/distribution.source.{taking.address}"
    for digest in image.layers:
        info = ContentInfo(digest, labels={label: evil})
        await rig.store.content.update(SCOPE, info, [f"labels.{label}"])
    await rig.push(name, taking.reference)
    assert all("from=" not in seen.path for seen in taking.seen)

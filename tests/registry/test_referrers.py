"""Referrers: listed by a registry's API or by the tag schema, page by page, of one type or of any."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from orlopd.plugin import ResolveOptions
from orlopd.plugin.errors import (
    InvalidArgument,
    NotFound,
    OrlopError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from tests.registry.conftest import Rig
from tests.registry.test_push import artifact, here, raw, small
from tests.support.daemon import Daemon, daemon
from tests.support.faulty import FaultyRegistry, Handler
from tests.support.images import INDEX, MANIFEST, SmallImage, digest_of, layout_tar, make_index
from tests.support.registry import Registry

__all__ = ["daemon"]

NOTE = "application/vnd.tests.note"


def entry(mark: str, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": MANIFEST,
        "digest": digest_of(mark.encode()),
        "size": len(mark),
        "artifactType": NOTE,
        **more,
    }


def serve(faulty: FaultyRegistry, pages: list[list[dict[str, Any]]], *, filters: bool = False) -> None:
    """Have the registry list referrers by the API, page by page."""

    def answer(handler: Handler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        number = int(query.get("page", ["0"])[0])
        listed = pages[number]
        if filters and "artifactType" in query:
            listed = [each for each in listed if each["artifactType"] == query["artifactType"][0]]
        headers = {"Content-Type": INDEX}
        if number + 1 < len(pages):
            path = handler.path.partition("?")[0]
            headers["Link"] = f'<{path}?page={number + 1}>; rel="next"'
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()
        handler.answer(200, body, headers)

    faulty.on("GET .*/referrers/", answer)


async def test_the_api_is_asked_page_by_page(rig: Rig, faulty: FaultyRegistry) -> None:
    sbom = entry("b", artifactType="application/spdx+json", annotations={"by": "tests"})
    serve(faulty, [[entry("a")], [sbom, entry("a")]])
    found = await rig.referrers.find(faulty.reference)
    assert (found.name, found.subject) == (faulty.reference, faulty.served.digest)
    assert [each.digest for each in found.listed] == [digest_of(b"a"), digest_of(b"b")]
    assert found.listed[1].artifact_type == "application/spdx+json"
    assert dict(found.listed[1].annotations) == {"by": "tests"}
    assert (found.listed[1].size, found.listed[1].media_type) == (1, MANIFEST)


@pytest.mark.parametrize("filters", [True, False])
async def test_one_type_is_asked_for_whether_the_registry_filters_or_not(
    rig: Rig, faulty: FaultyRegistry, filters: bool
) -> None:
    serve(faulty, [[entry("a"), entry("b", artifactType="application/spdx+json")]], filters=filters)
    found = await rig.referrers.find(f"{faulty.address}/test/image@{faulty.served.digest}", NOTE)
    assert [each.digest for each in found.listed] == [digest_of(b"a")]
    # The subject's digest is known: nothing else was asked.
    assert [urlsplit(each.path).query for each in faulty.seen] == [
        "artifactType=application%2Fvnd.tests.note"
    ]


@pytest.mark.parametrize("status", [400, 404, 405])
async def test_without_the_api_the_tag_schema_is_read(rig: Rig, faulty: FaultyRegistry, status: int) -> None:
    faulty.on("GET .*/referrers/", lambda handler: handler.answer(status))
    listed = json.dumps({"manifests": [entry("a"), entry("b", artifactType="other/type")]}).encode()
    tag = faulty.served.digest.replace(":", "-")
    faulty.on(f"GET .*/manifests/{tag}", lambda handler: handler.answer(200, listed, {"Content-Type": INDEX}))
    found = await rig.referrers.find(faulty.reference, NOTE)
    assert [each.digest for each in found.listed] == [digest_of(b"a")]


async def test_a_registry_that_answers_anything_to_any_path_is_no_api(
    rig: Rig, faulty: FaultyRegistry
) -> None:
    faulty.on(
        "GET .*/referrers/", lambda handler: handler.answer(200, b"<html>", {"Content-Type": "text/html"})
    )
    faulty.on("GET .*/manifests/sha256-", lambda handler: handler.answer(404))
    assert (await rig.referrers.find(faulty.reference)).listed == ()


def endless(faulty: FaultyRegistry) -> None:
    headers = {"Content-Type": INDEX, "Link": "<?page=1>; rel=next"}
    body = json.dumps({"manifests": [entry("a")]}).encode()
    faulty.on("GET .*/referrers/", lambda handler: handler.answer(200, body, headers))


def elsewhere(faulty: FaultyRegistry) -> None:
    headers = {"Content-Type": INDEX, "Link": '<http://127.0.0.1:1/list>; rel="next"'}
    faulty.on("GET .*/referrers/", lambda handler: handler.answer(200, b'{"manifests":[]}', headers))


def listing(value: Any) -> Any:
    def tell(faulty: FaultyRegistry) -> None:
        serve(faulty, [[value]])

    return tell


@pytest.mark.parametrize(
    ("trouble", "error", "match"),
    [
        pytest.param(endless, Unavailable, "has no end", id="endless"),
        pytest.param(elsewhere, Unavailable, "goes on elsewhere", id="elsewhere"),
        pytest.param(listing({"digest": "sha256:short"}), Unavailable, "digest", id="digest"),
        pytest.param(listing(entry("a", size=-1)), Unavailable, "cannot be read", id="size"),
        pytest.param(listing(entry("a", artifactType=7)), Unavailable, "cannot be read", id="type"),
        pytest.param(
            listing(entry("a", annotations={"a": 1})), Unavailable, "cannot be read", id="annotations"
        ),
        pytest.param(
            lambda faulty: faulty.on("referrers", lambda h: h.answer(401)),
            Unauthenticated,
            "credentials",
            id="401",
        ),
        pytest.param(
            lambda faulty: faulty.on("referrers", lambda h: h.answer(500)),
            Unavailable,
            "answered 500",
            id="500",
        ),
        pytest.param(
            lambda faulty: faulty.on("manifests/1", lambda h: h.answer(404)), NotFound, "no image", id="404"
        ),
    ],
)
async def test_what_cannot_be_read_is_one_error(
    rig: Rig, faulty: FaultyRegistry, trouble: Any, error: type[OrlopError], match: str
) -> None:
    trouble(faulty)
    with pytest.raises(error, match=match):
        await rig.referrers.find(faulty.reference)


async def test_not_every_reference_has_a_place_to_ask(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(Unimplemented, match="not asked for referrers"):
        await rig.referrers.find(f"docker-archive:{tmp_path}")
    with pytest.raises(InvalidArgument):
        await rig.referrers.find("UPPER/case")


@pytest.mark.parametrize("kind", ["oci-layout", "oci-archive"])
async def test_a_layout_is_looked_through_for_them(rig: Rig, tmp_path: Path, kind: str) -> None:
    image, other = small("in a layout"), small("beside it")
    bare, noted = artifact("bare", image.target), artifact("noted", image.target)
    foreign = artifact("foreign", other.target)
    by_tag = make_index({}, noted.target)
    parts = (image, bare, noted, foreign, by_tag)
    blobs = {digest: data for each in parts for digest, data in each.blobs.items()}
    absent = {"mediaType": MANIFEST, "digest": digest_of(b"absent"), "size": 6}
    listed = [
        tagged(image.target, "v1"),
        bare.target,
        foreign.target,
        tagged(by_tag.target, image.digest.replace(":", "-")),
        absent,
    ]
    tar = layout_tar(SmallImage(image.target, blobs), listed)
    place = tmp_path / "place"
    if kind == "oci-archive":
        place.write_bytes(tar)
    else:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            archive.extractall(place, filter="data")
    found = await rig.referrers.find(f"{kind}:{place}:v1")
    assert found.subject == image.digest
    assert {each.digest for each in found.listed} == {bare.digest, noted.digest}
    assert {each.artifact_type for each in found.listed} == {NOTE}
    assert (await rig.referrers.find(f"{kind}:{place}:v1", "other/type")).listed == ()
    assert (await rig.referrers.find(f"{kind}:{place}:{bare.digest}")).listed == ()
    # What is found can be fetched by its digest.
    await rig.pull(f"{kind}:{place}:{bare.digest}", unpack=False)
    assert await rig.digests() == set(bare.blobs)


async def test_a_layout_that_lists_without_end_is_refused(rig: Rig, tmp_path: Path) -> None:
    image = small("many")
    many = [{"mediaType": MANIFEST, "digest": digest_of(b"%d" % number), "size": 1} for number in range(5000)]
    blobs = {each["digest"]: b"%d" % number for number, each in enumerate(many)}
    tar = layout_tar(SmallImage(image.target, {**image.blobs, **blobs}), [tagged(image.target, "v1"), *many])
    (tmp_path / "many.tar").write_bytes(tar)
    with pytest.raises(InvalidArgument):
        await rig.referrers.find(f"oci-archive:{tmp_path}/many.tar:v1")


def tagged(target: dict[str, Any], tag: str) -> dict[str, Any]:
    return target | {"annotations": {"org.opencontainers.image.ref.name": tag}}


async def test_mirrors_that_may_are_asked_first_and_passed_over(
    rig: Rig, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    serve(faulty, [[entry("a")]])
    folder = tmp_path / "certs.d" / faulty.address
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(
        f'server = "http://{faulty.address}"\n'
        '[host."http://127.0.0.1:1"]\ncapabilities = ["pull", "resolve", "referrers"]\n'
        '[host."http://127.0.0.1:2"]\ncapabilities = ["pull"]\n'
    )
    options = ResolveOptions(host_folder=str(tmp_path / "certs.d"))
    found = await rig.referrers.find(f"{faulty.address}/test/image@{faulty.served.digest}", "", options)
    assert len(found.listed) == 1


async def test_artifacts_go_to_a_real_registry_and_come_back_with_their_digests(
    rig: Rig, server: Registry
) -> None:
    image = small("referred")
    subject = f"{server.address}/referrers/subject:1"
    await rig.push(await here(rig, image, "docker.io/library/referred:1"), subject)
    notes = [artifact(mark, image.target) for mark in ("x", "y")]
    for mark, note in zip(("x", "y"), notes, strict=True):
        name = await here(rig, note, f"docker.io/library/referring:{mark}")
        await rig.push(name, f"{server.address}/referrers/subject@{note.digest}")
    found = await rig.referrers.find(subject)
    assert [each.digest for each in found.listed] == [note.digest for note in notes]
    for each in found.listed:
        name = f"{server.address}/referrers/subject@{each.digest}"
        await rig.pull(name, unpack=False)
        assert digest_of(raw(name)) == each.digest
    assert {digest for note in notes for digest in note.blobs} <= await rig.digests()


async def test_what_others_have_pushed_without_a_note_is_noted(rig: Rig, server: Registry) -> None:
    image = small("unnoted")
    subject = server.push("referrers/unnoted:1", image)
    note = artifact("unnoted", image.target)
    server.push("referrers/unnoted:note", note)
    assert (await rig.referrers.find(subject)).listed == ()
    name = await here(rig, note, "docker.io/library/unnoted:1")
    for _ in range(2):
        await rig.push(name, f"{server.address}/referrers/unnoted:note")
        found = await rig.referrers.find(subject)
        assert [each.digest for each in found.listed] == [note.digest]


def test_a_person_lists_and_pulls_them(daemon: Daemon, server: Registry) -> None:
    image = small("listed")
    reference = server.push("referrers/listed:1", image)
    note = artifact("by hand", image.target)
    server.push("referrers/listed:note", note)
    tag = image.digest.replace(":", "-")
    listed = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**note.target, "artifactType": NOTE}]}
    data = json.dumps(listed).encode()
    server.put(f"referrers/listed/manifests/{tag}", data, INDEX)
    shown = daemon.must(daemon.orlop("referrers", reference))
    assert shown.splitlines()[1].split()[:2] == [note.digest, NOTE]
    told = json.loads(
        daemon.must(daemon.orlop("referrers", "--output", "json", "--type", "other/x", reference))
    )
    assert (told["subject"], told["listed"]) == (image.digest, [])
    repository = reference.rpartition(":")[0]
    daemon.must(daemon.orlop("pull", "-q", "--no-unpack", f"{repository}@{note.digest}"))
    daemon.must(daemon.orlop("rmi", f"{repository}@{note.digest}"))

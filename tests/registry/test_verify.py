"""Verifiers: what they refuse is not fetched, and one that breaks lets nothing in."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest

from orlop_plugins.verify.pins import Pins
from orlop_plugins.verify.programs import Programs
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from orlopd.plugin.values import Descriptor
from tests.registry.conftest import NOTHING, open_rig
from tests.support.faulty import FaultyRegistry

LOG = logging.getLogger("tests")
ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")


async def passes(pins: Pins, name: str, digest: str) -> bool:
    try:
        await pins.verify("tests", name, Descriptor("x", digest, 1))
    except PermissionDenied:
        return False
    return True


async def test_pins_are_by_reference_by_repository_or_by_beginning() -> None:
    pins = Pins(
        {
            "alpine:3.20": ONE,
            "alpine": [ONE, TWO],
            "ghcr.io/team/*": [],
            "ghcr.io/team/app/*": THREE,
            "ghcr.io/team/app": TWO,
        }
    )
    for name, digest, expected in [
        ("docker.io/library/alpine:3.20", ONE, True),
        ("docker.io/library/alpine:3.20", TWO, False),
        ("docker.io/library/alpine:3.19", TWO, True),
        (f"docker.io/library/alpine:3.20@{TWO}", TWO, False),
        (f"docker.io/library/alpine@{THREE}", THREE, False),
        ("ghcr.io/team/other:1", ONE, False),
        ("ghcr.io/team/app:1", TWO, True),
        ("ghcr.io/team/app/part:1", THREE, True),
        ("ghcr.io/team/app/part:1", ONE, False),
        ("ghcr.io/else:1", ONE, True),
    ]:
        assert await passes(pins, name, digest) is expected, name
    assert not await passes(Pins({}, required=True), "ghcr.io/else:1", ONE)


@pytest.mark.parametrize("digests", [{"alpine": "latest"}, {"UPPER/x": ONE}, {"x": ["sha256:"]}])
def test_a_malformed_pin_is_told_at_the_start(digests: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="malformed"):
        Pins(digests)


async def test_a_pinned_image_of_another_digest_is_not_fetched(
    tmp_path: Path, faulty: FaultyRegistry
) -> None:
    async with open_rig(tmp_path, verifiers=[Pins({faulty.reference: ONE})]) as rig:
        with pytest.raises(PermissionDenied, match=f"the config allows {ONE}"):
            await rig.pull(faulty.reference)
        assert faulty.asked("GET") == []
        assert await rig.left() == NOTHING
    async with open_rig(tmp_path, verifiers=[Pins({faulty.reference: faulty.served.digest})]) as rig:
        await rig.pull(faulty.reference)


class Folder:
    """A folder of verifier programs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def program(self, name: str, script: str) -> None:
        file = self.path / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    async def verify(self, *, most: int = 10, seconds: float = 10) -> None:
        target = Descriptor("application/x", ONE, 7, annotations={"a": "b"})
        await Programs(str(self.path), most, seconds, LOG).verify("tests", "ghcr.io/app:1", target)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "bin")


async def test_without_programs_everything_passes(folder: Folder) -> None:
    await folder.verify()
    folder.path.rmdir()
    await folder.verify()


async def test_a_program_is_told_name_digest_and_descriptor(folder: Folder, tmp_path: Path) -> None:
    folder.program("tell", f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/input; echo fine')
    await folder.verify()
    media_type = "application/vnd.oci.descriptor.v1+json"
    words = f"-name ghcr.io/app:1 -digest {ONE} -stdin-media-type {media_type}\n"
    assert (tmp_path / "words").read_text() == words
    assert json.loads((tmp_path / "input").read_bytes()) == {
        "mediaType": "application/x", "digest": ONE, "size": 7, "annotations": {"a": "b"}
    }  # fmt: skip


async def test_the_first_that_rejects_says_why_and_no_more_are_asked(folder: Folder, tmp_path: Path) -> None:
    folder.program("a", "yes | head -c 1000000; yes | head -c 1000000 >&2")
    folder.program("b", "echo it is not; echo signed; exit 3")
    folder.program("c", f"touch {tmp_path}/asked")
    with pytest.raises(
        PermissionDenied, match=r"verifier b rejected image ghcr\.io/app:1 .*: it is not signed"
    ):
        await folder.verify()
    assert not (tmp_path / "asked").exists()
    await folder.verify(most=1)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sleep 60 & sleep 60", "did not answer within"),
        ("sleep 60 &", "did not answer within"),
        ("kill -SEGV $$", "was ended by SIGSEGV"),
    ],
)
async def test_a_program_that_breaks_lets_nothing_in(folder: Folder, script: str, message: str) -> None:
    folder.program("broken", script)
    began = time.monotonic()
    with pytest.raises(FailedPrecondition, match=message) as broken:
        await folder.verify(seconds=1.5)
    assert broken.value.reason == "VERIFIER_FAILED"
    assert time.monotonic() - began < 20


async def test_a_file_that_cannot_be_run_lets_nothing_in(folder: Folder) -> None:
    (folder.path / "readme").write_text("not a program")
    with pytest.raises(FailedPrecondition, match="verifier readme cannot be run: permission denied"):
        await folder.verify()
    assert os.listdir(folder.path) == ["readme"]  # noqa: PTH208


async def test_an_image_that_a_program_rejects_is_not_fetched(
    folder: Folder, tmp_path: Path, faulty: FaultyRegistry
) -> None:
    folder.program("no", "echo never; exit 1")
    programs = Programs(str(folder.path), 10, 10, LOG)
    async with open_rig(tmp_path / "rig", verifiers=[programs]) as rig:
        with pytest.raises(PermissionDenied, match="never"):
            await rig.pull(faulty.reference)
        assert faulty.asked("GET") == []
        assert await rig.left() == NOTHING

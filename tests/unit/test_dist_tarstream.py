"""The tar reader: what others write is read, what is hostile is refused in bounded time and memory."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orlopd.core.tarstream import BLOCK, END, Member, TarReader, header, padding
from orlopd.plugin.errors import InvalidArgument


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def chunks(data: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
        yield b""


async def members(data: bytes, size: int = 700, **options: int) -> list[tuple[Member, bytes]]:
    reader = TarReader(chunks(data, size), **options)
    found: list[tuple[Member, bytes]] = []
    while (member := await reader.next()) is not None:
        found.append((member, b"".join([piece async for piece in reader.data()])))
    return found


def written(format: int, *entries: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


LONG = "folder/" * 40 + "ünïcode" + "x" * 120


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("size", [1, 511, 512, 100_000])
async def test_what_python_writes_is_read(format: int, size: int) -> None:
    entries = [("a", b""), ("b", b"x" * 512), (LONG, b"y" * 1000)]
    found = await members(written(format, *entries), size)
    assert [(member.name, data) for member, data in found] == entries
    assert all(member.is_file for member, _ in found)


@pytest.mark.parametrize("format", ["ustar", "pax", "gnu", "oldgnu", "v7"])
def test_what_gnu_tar_writes_is_read(format: str, tmp_path: Path) -> None:
    import anyio

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"data" * 300)
    (tmp_path / "tree/link").symlink_to("file")
    (tmp_path / "tree/same").hardlink_to(tmp_path / "tree/file")
    data = subprocess.run(
        ["tar", "--format", format, "--sort=name", "-C", tmp_path, "-c", "tree"],
        capture_output=True,
        check=True,
    ).stdout
    found = {member.name: (member, content) for member, content in anyio.run(members, data)}
    assert found["tree/file"][1] == b"data" * 300
    assert found["tree/link"][0].is_symlink
    assert found["tree/link"][0].target == "file"
    assert found["tree/same"][0].is_hard_link
    assert found["tree/same"][0].target == "tree/file"


async def test_what_is_not_read_is_passed_over() -> None:
    reader = TarReader(chunks(written(tarfile.PAX_FORMAT, ("a", b"x" * 5000), ("b", b"y"))))
    assert await reader.next() == Member("a", b"0", 5000)
    assert await reader.next() == Member("b", b"0", 1)
    assert await reader.read(10) == b"y"
    assert await reader.next() is None


async def test_an_archive_may_end_without_its_last_blocks() -> None:
    assert len(await members(written(tarfile.USTAR_FORMAT, ("a", b"x"))[: 2 * BLOCK])) == 1


@pytest.mark.parametrize("length", [1, 511, 513, 600, 1023, 1025, 1500])
async def test_a_truncated_archive_is_refused(length: int) -> None:
    with pytest.raises(InvalidArgument, match="truncated"):
        await members(written(tarfile.USTAR_FORMAT, ("a", b"x" * 1000))[:length])


@pytest.mark.parametrize("data", [b"", b"no archive" * 100, bytes(range(256)) * 4, b"\x1f\x8b" * 600])
async def test_what_is_no_tar_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        await members(data)


def forged(block: bytes, **fields: bytes) -> bytes:
    """A header with fields replaced and a right checksum."""
    places = {"size": 124, "kind": 156, "name": 0, "link": 157}
    forged = bytearray(block)
    for name, value in fields.items():
        forged[places[name] : places[name] + len(value)] = value
    forged[148:156] = b" " * 8
    forged[148:156] = b"%06o\0 " % sum(forged)
    return bytes(forged)


HEADER = header("a", 0)


@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 12,
        b"\x80" + b"\xff" * 11,
        b"\xff" + b"\0" * 11,
        b"-0000000001\0",
        b"0x00000001\0\0",
        b"1_0\0\0\0\0\0\0\0\0\0",
        b"99999999999\0",
    ],
)
@pytest.mark.timeout(30)
async def test_cve_2025_8194_a_negative_or_absurd_size_neither_loops_nor_passes(size: bytes) -> None:
    for kind in (b"0", b"x", b"L", b"g"):
        with pytest.raises(InvalidArgument):
            await members(forged(HEADER, size=size, kind=kind) + bytes(4096))


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return forged(header("pax", len(records)), kind=kind) + records + padding(len(records))


@pytest.mark.parametrize(
    "records",
    [
        b"0 a=b\n",
        b"6 a=b",
        b"999999 path=x\n",
        b"-5 a=b\n",
        b"5\n",
        b" " * 500_000,
        b"9" * 500_000,
        b"7 a=bc\n" * 10 + b"x",
        b"19 size=-000000001\n",
        b"25 size=9999999999999999\n",
        b"26 GNU.sparse.major=1.000\n",
    ],
)
@pytest.mark.timeout(30)
async def test_cve_2024_6232_an_evil_extended_header_is_refused_quickly(records: bytes) -> None:
    with pytest.raises(InvalidArgument):
        await members(pax(records) + HEADER + END)


async def test_huge_extended_headers_and_endless_entries_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="the limit is 1048576"):
        await members(forged(header("pax", 1 << 21), kind=b"x") + bytes(4096))
    with pytest.raises(InvalidArgument, match="too many extended headers"):
        await members(pax(b"6 a=b\n") * 100 + HEADER + END, 100_000)
    with pytest.raises(InvalidArgument, match="more than 10 entries"):
        await members(HEADER * 11 + END, limit=10)
    with pytest.raises(InvalidArgument, match="longer than 4096"):
        await members(pax(b"5010 path=" + b"x" * 4999 + b"\n") + HEADER + END, 100_000)


async def test_a_link_has_no_data_whatever_it_says() -> None:
    link = forged(header("a", 0), kind=b"2", size=b"00000001000\0", link=b"../../etc/passwd")
    [(first, _), (second, _)] = await members(link + HEADER + END)
    assert (first.is_symlink, first.size, second.name) == (True, 0, "a")


async def test_noise_is_read_or_refused() -> None:
    source = random.Random(7)
    good = written(tarfile.PAX_FORMAT, (LONG, b"x" * 100), ("b", b"y" * 2000))
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(source.randint(1, 8)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        try:
            await members(bytes(damaged), 4096)
        except InvalidArgument:
            continue


async def test_what_we_write_is_read_by_python() -> None:
    data = header("folder/", 0, directory=True) + header("folder/file", 3) + b"abc" + padding(3) + END
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        folder, file = tar.getmembers()
        assert (folder.isdir(), folder.mode, folder.mtime) == (True, 0o755, 0)
        assert (file.name, file.size, file.mode, file.uid) == ("folder/file", 3, 0o644, 0)

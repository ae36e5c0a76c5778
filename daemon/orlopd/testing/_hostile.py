"""The archives that a differ must refuse or render harmless."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from orlopd.plugin.diff import Differ
from orlopd.plugin.errors import InvalidArgument, OrlopError

from ._layers import GZIP, DifferBase, Host
from .archives import Member, archive, folder, gzipped, header, link, padded, symlink


class HostileArchives(DifferBase):
    """Each test is named for the weakness it would find."""

    @pytest.mark.parametrize(
        "members",
        [
            [Member("../secret", b"hacked")],
            [Member("a/../../secret", b"hacked")],
            [folder("../outside")],
            [link("mine", "../secret")],
            [link("mine", "a/../../secret")],
            [Member("a\0b", pax={b"path": b"a\0../secret"})],
            [Member("x", pax={b"path": b"../secret"})],
            [Member(".wh..")],
            [Member(".wh...")],
            [Member("d/.wh..")],
            [Member(".wh.")],
            [Member("", b"x"), Member(".", b"x")],
            [symlink("/", "/etc")],
            [Member("f", b"1"), Member("f/x", b"1")],
            [link("missing", "nothing")],
            [folder("d"), link("l", "d")],
            [Member("dev", type=b"3", device=(1 << 20, 0))],
            [Member("dev", type=b"4", device=(8, -1))],
            [Member("odd", type=b"Z")],
            [Member("a", uid=(1 << 32) - 1)],
            [Member("a", gid=-1)],
            [Member("x" * 90, pax={b"path": b"y/" * 3000 + b"z"})],
            [Member("x", pax={b"path": b"n" * 300})],
            [Member("x", pax={b"mtime": b"nan"})],
            [Member("x", pax={b"size": b"-1"})],
            [Member("x", pax={b"size": b"9" * 30})],
        ],
    )
    async def test_an_archive_that_cannot_be_right_is_refused(
        self, differ: Differ, host: Host, members: list[Member]
    ) -> None:
        with pytest.raises(InvalidArgument) as caught:
            await self.apply(differ, host.bind("layer"), archive(members))
        assert "\n" not in caught.value.message
        assert len(caught.value.message) < 600
        host.check()

    @pytest.mark.parametrize("target", ["{host}", "../../../../../../../../{host}", "/proc/self/root/{host}"])
    async def test_cve_2025_47290_no_write_goes_through_a_symlink_outside(
        self, differ: Differ, host: Host, target: str
    ) -> None:
        away = target.format(host=host.path)
        members = [
            symlink("way", away),
            Member("way/secret", b"hacked"),
            folder("way/made"),
            symlink("deep", "way"),
            Member("deep/secret", b"hacked", mode=0o777),
        ]
        with contextlib.suppress(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()
        assert not (host.path / "made").exists()

    async def test_cve_2025_47290_a_name_is_first_a_directory_then_a_symlink(
        self, differ: Differ, host: Host
    ) -> None:
        members = [
            folder("d"),
            Member("d/secret", b"first"),
            symlink("d", str(host.path)),
            Member("d/secret", b"hacked"),
            Member("d/.wh.secret"),
            Member("d/.wh..wh..opq"),
        ]
        with contextlib.suppress(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()

    async def test_cve_2025_47290_a_symlink_is_swapped_in_meanwhile(self, differ: Differ, host: Host) -> None:
        layer, away = host.folder("layer"), host.folder("away")
        over = threading.Event()

        def swap() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    (layer / "d").rename(layer / "was")
                    (layer / "d").symlink_to(away)
                    (layer / "d").unlink()
                with contextlib.suppress(OSError):
                    (layer / "was").rename(layer / "d")

        members = [folder("d"), *(Member(f"d/{number}", b"hacked") for number in range(3000))]
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, swap)
            try:
                with contextlib.suppress(OrlopError):
                    await self.apply(differ, host.bind("layer"), archive(members))
            finally:
                over.set()
        assert list(away.iterdir()) == []
        host.check()

    async def test_cve_2021_32760_no_link_changes_the_mode_of_a_host_file(
        self, differ: Differ, host: Host
    ) -> None:
        members = [
            symlink("s", str(host.secret)),
            Member("h", type=b"1", link="s", mode=0o777, uid=5, mtime=1),
            Member("s2", type=b"2", link=str(host.secret), mode=0o777, uid=5),
            Member("h2", type=b"1", link=str(host.secret), mode=0o777),
        ]
        with pytest.raises(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()
        made = host.folder("layer") / "h"
        assert made.is_symlink() or not made.exists()  # of a refused archive a differ may leave what it likes

    async def test_cve_2025_4517_a_long_chain_of_symlinks_leads_nowhere(
        self, differ: Differ, host: Host
    ) -> None:
        # The path through the chain is too long to resolve, where a check might give up and a write not.
        members: list[Member] = []
        path = ""
        for letter in "abcdefghijklmnop":
            members += [folder(f"{path}{'d' * 240}"), symlink(f"{path}{letter}", "d" * 240)]
            path += f"{letter}/"
        members += [
            symlink(f"{path}{'l' * 250}", "../" * 16),
            symlink("escape", f"{path}{'l' * 250}/../../../.." + str(host.path)),
            Member("escape/secret", b"hacked"),
            link("flag", "escape/secret"),
            Member("flag", b"hacked"),
        ]
        with contextlib.suppress(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()

    async def test_cve_2025_4330_a_target_that_looks_inside_and_is_not_leads_nowhere(
        self, differ: Differ, host: Host
    ) -> None:
        # Each target is below the root as it is written, and outside once the links before it are followed.
        up = "/".join([".."] * 30)
        members = [
            folder("a"),
            folder("a/b"),
            symlink("a/b/c", "../../a/b"),
            symlink("out", f"a/b/c/../../../{up}{host.path}"),
            Member("out/secret", b"hacked", mode=0o777),
            symlink("file", f"a/b/c/../../../{up}{host.secret}"),
            Member("file", b"hacked"),
            folder("out"),
            symlink("out/again", f"../a/b/c/../../../../{up}{host.path}"),
            Member("out/again/secret", b"hacked"),
            Member("out/again/.wh.secret"),
        ]
        with contextlib.suppress(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()

    async def test_cve_2025_4138_a_link_to_a_link_leads_nowhere(self, differ: Differ, host: Host) -> None:
        # A hard link that cannot be made must not become a copy of what its target's target is.
        members = [
            symlink("way", str(host.path)),
            symlink("target", str(host.secret)),
            link("name", "target"),
            Member("name", b"hacked"),
            symlink("target", str(host.secret)),
            link("other", "target"),
            Member("other/x", b"hacked"),
            link("third", "way/secret"),
        ]
        with contextlib.suppress(InvalidArgument):
            await self.apply(differ, host.bind("layer"), archive(members))
        host.check()
        found = [path for path in host.folder("layer").rglob("*") if path.is_file() and not path.is_symlink()]
        assert all(path.read_bytes() == b"hacked" for path in found)

    async def test_cve_2025_8194_negative_sizes_end_at_once(self, differ: Differ, host: Host) -> None:
        for size in (-1, -512, -(1 << 62)):
            with pytest.raises(InvalidArgument):
                await self.apply(differ, host.bind("layer"), archive([Member("a", b"", size=size)]))
        with pytest.raises(OrlopError):
            await self.apply(differ, host.bind("layer"), archive([header(b"p", b"x", -512), Member("a")]))

    async def test_cve_2024_6232_evil_headers_burn_no_time(self, differ: Differ, host: Host) -> None:
        for records in (
            b"1" * 500_000,
            b"0 " * 250_000,
            b"11 a=b" * 80_000,
            b" " * 500_000,
            b"9999999999 a=b\n",
        ):
            head = header(b"p", b"x", len(records)) + padded(records)
            begun = time.monotonic()
            with pytest.raises(InvalidArgument):
                await self.apply(differ, host.bind("layer"), archive([head, Member("a")]))
            assert time.monotonic() - begun < 30  # what is not linear takes many minutes

    async def test_cve_2026_41567_nothing_of_the_layer_is_run(self, differ: Differ, host: Host) -> None:
        trap = b"open('/trapped', 'w')\n"
        names = (
            "encodings/idna.py",
            "encodings/cp437.py",
            "gzip",
            "usr/bin/unpigz",
            "bin/gzip",
            "linecache.py",
        )
        # A differ that is not confined would put these where this machine's own programs are.
        harmless = f"orlop-{secrets.token_hex(8)}"
        await self.apply(differ, host.bind("first"), archive([Member(harmless)]))
        assert not _came_out(harmless), "what a layer holds comes outside of it: nothing worse is tried"
        members = [Member(name, trap, mode=0o755) for name in names]
        modules = ("traceback", "linecache", "tokenize", "encodings/cp1250", "zstandard/__init__")
        members += [Member(f"{module}.py", trap) for module in modules]
        with pytest.raises(OrlopError):
            await self.apply(differ, host.bind("layer"), archive([*members, Member("x", type=b"Z")]))
        await self.apply(differ, host.bind("layer"), gzipped(archive(members)), GZIP)
        assert not (host.folder("layer") / "trapped").exists()

    async def test_overlays_attributes_and_ours_do_not_come_from_an_archive(
        self, differ: Differ, host: Host
    ) -> None:
        marks = {
            b"SCHILY.xattr.trusted.overlay.redirect": b"/etc",
            b"SCHILY.xattr.trusted.overlay.opaque": b"y",
            b"SCHILY.xattr.trusted.orlop.implied": b"y",
            b"SCHILY.xattr.user.orlop.plain": b"y",
        }
        await self.apply(differ, host.bind("layer"), archive([Member("d", type=b"5", pax=marks)]))
        assert os.listxattr(host.folder("layer") / "d") == []


def _came_out(name: str) -> bool:
    """Whether a file is in the machine's root folder, where none of this name was; it is removed."""
    try:
        Path("/", name).unlink()
    except FileNotFoundError:
        return False
    return True

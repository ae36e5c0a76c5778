"""Who a container runs as, looked up in a root filesystem that may be hostile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlopd.core.oci import Rootfs, User, resolve_user
from orlopd.plugin.errors import InvalidArgument, ResourceExhausted

PASSWD = """root:x:0:0:root:/root:/bin/sh
me:x:1000:1001:Me:/home/me:/bin/sh
short:x:7:8
"""
GROUP = """root:x:0:
mine:x:1001:me
tape:x:26:me,other
disk:x:6:other
wheel:x:10:me
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@pytest.fixture
def rootfs(root: Path) -> Iterator[Rootfs]:
    with Rootfs.open(root) as opened:
        yield opened


def test_nobody_asked_for_is_root(rootfs: Rootfs) -> None:
    assert resolve_user("", rootfs) == User(0, 0, (0,), "root", "/root")


def test_a_name_brings_its_group_home_and_further_groups(rootfs: Rootfs) -> None:
    assert resolve_user("me", rootfs) == User(1000, 1001, (1001, 10, 26), "me", "/home/me")


def test_a_number_of_a_known_user_brings_the_same(rootfs: Rootfs) -> None:
    assert resolve_user("1000", rootfs) == resolve_user("me", rootfs)


def test_a_number_nobody_knows_has_group_0(rootfs: Rootfs) -> None:
    assert resolve_user("4321", rootfs) == User(4321, 0, (0,))


@pytest.mark.parametrize(("wanted", "gid"), [("me:disk", 6), ("1000:6", 6), ("me:4242", 4242)])
def test_a_group_of_ones_own_choice_is_the_only_one(rootfs: Rootfs, wanted: str, gid: int) -> None:
    assert resolve_user(wanted, rootfs) == User(1000, gid, (gid,), "me", "/home/me")


def test_an_entry_without_its_last_fields_counts(rootfs: Rootfs) -> None:
    assert resolve_user("short", rootfs) == User(7, 8, (8,), "short", "")


def test_numbers_need_no_root_filesystem() -> None:
    assert resolve_user("12:13", None) == User(12, 13, (13,))


@pytest.mark.parametrize("wanted", ["stranger", "me:strangers"])
def test_a_name_that_is_not_there_is_an_error(rootfs: Rootfs, wanted: str) -> None:
    with pytest.raises(InvalidArgument, match="not in the root filesystem"):
        resolve_user(wanted, rootfs)


@pytest.mark.parametrize("wanted", [":", ":5", "me:", "a b", "-1", "+5", "a:b:c", "x\nroot", "\0"])
def test_a_malformed_user_is_an_error(rootfs: Rootfs, wanted: str) -> None:
    with pytest.raises(InvalidArgument):
        resolve_user(wanted, rootfs)


@pytest.mark.parametrize(
    "number", ["4294967295", "4294967296", "9999999999999999999999", "18446744073709551616"]
)
@pytest.mark.parametrize("form", ["{}", "{}:0", "0:{}"])
def test_cve_2024_40635_a_number_beyond_32_bits_is_an_error_and_not_uid_0(
    rootfs: Rootfs, number: str, form: str
) -> None:
    with pytest.raises(InvalidArgument, match="out of range"):
        resolve_user(form.format(number), rootfs)


def test_cve_2026_46680_a_number_out_of_range_is_never_a_name(root: Path, rootfs: Rootfs) -> None:
    with (root / "etc/passwd").open("a") as file:
        file.write("4294967296:x:0:0::/:/bin/sh\n0042:x:0:0::/:/bin/sh\n")
    with pytest.raises(InvalidArgument, match="out of range"):
        resolve_user("4294967296", rootfs)
    assert resolve_user("0042", rootfs).uid == 42


def test_an_entry_with_a_number_out_of_range_is_none(root: Path, rootfs: Rootfs) -> None:
    (root / "etc/passwd").write_text("evil:x:4294967296:0::/:/bin/sh\nneg:x:-1:0::/:/bin/sh\n")
    for name in ("evil", "neg"):
        with pytest.raises(InvalidArgument, match="not in the root filesystem"):
            resolve_user(name, rootfs)


@pytest.mark.parametrize("name", ["passwd", "group"])
def test_cve_2026_47262_a_huge_file_is_not_read_to_its_end(root: Path, rootfs: Rootfs, name: str) -> None:
    with (root / "etc" / name).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ResourceExhausted, match=f"/etc/{name}"):
        resolve_user("root", rootfs)


@pytest.mark.parametrize("wanted", ["", "me", "1000", "4321", "me:disk", "5:6"])
def test_cve_2023_25173_the_primary_group_is_among_the_additional_ones(rootfs: Rootfs, wanted: str) -> None:
    # CVE-2022-36109, CVE-2022-2989, CVE-2022-2995 are the same in other engines.
    user = resolve_user(wanted, rootfs)
    assert user.gid in user.additional_gids


@pytest.mark.parametrize("target", ["{outside}/passwd", "../../../../../../..{outside}/passwd"])
def test_a_passwd_behind_a_symlink_is_looked_for_inside(tmp_path: Path, target: str) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (outside / "passwd").write_text("spy:x:1:1::/:/bin/sh\n")
    (inside / "etc").mkdir(parents=True)
    (inside / "etc/passwd").symlink_to(target.format(outside=outside))
    with Rootfs.open(inside) as rootfs:
        with pytest.raises(InvalidArgument, match="not in the root filesystem"):
            resolve_user("spy", rootfs)
        # The same path inside the root is what such a link means.
        (inside / str(outside).lstrip("/")).mkdir(parents=True)
        (inside / str(outside).lstrip("/") / "passwd").write_text("own:x:3:4::/:/bin/sh\n")
        assert resolve_user("own", rootfs).uid == 3


def test_an_etc_behind_a_symlink_is_looked_for_inside(tmp_path: Path) -> None:
    (tmp_path / "etc").symlink_to("/proc/self/root/etc")
    with Rootfs.open(tmp_path) as rootfs:
        assert resolve_user("0", rootfs) == User(0, 0, (0,))


def test_a_fifo_and_a_device_in_place_of_passwd_are_not_opened(root: Path, rootfs: Rootfs) -> None:
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    (root / "etc/group").unlink()
    os.mknod(root / "etc/group", 0o600 | 0o020000, os.makedev(1, 5))
    assert resolve_user("0", rootfs) == User(0, 0, (0,))

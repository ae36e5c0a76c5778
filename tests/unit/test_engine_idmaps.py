"""Maps of ids, and giving a tree's files to the ids outside."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from orlopd.core.engine.userns import namespaced, shift
from orlopd.core.oci import IdMaps, IdRange, UserNamespace, resolve_maps
from orlopd.plugin.errors import InvalidArgument, NotFound

MAPS = IdMaps((IdRange(0, 100_000, 1000),), (IdRange(0, 200_000, 1000),))


def test_group_ids_are_mapped_as_user_ids_where_nothing_is_said() -> None:
    maps = resolve_maps(UserNamespace((IdRange(0, 5000, 10),)))
    assert (maps.uid(3), maps.gid(3)) == (5003, 5003)
    assert maps.options == ("0:5000:10", "0:5000:10")
    with pytest.raises(InvalidArgument):
        maps.uid(10)


@pytest.mark.parametrize(
    "ranges",
    [
        ((1, 5, 1),),
        ((0, 5, 0),),
        ((0, 2**32 - 2, 2),),
        ((0, 5, 10), (9, 50, 1)),
        ((0, 5, 10), (20, 14, 1)),
        tuple((number, number, 1) for number in range(400)),
    ],
)
def test_a_map_that_the_kernel_would_refuse_is_refused_first(
    ranges: tuple[tuple[int, int, int], ...],
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        resolve_maps(UserNamespace(tuple(IdRange(*each) for each in ranges)))
    assert caught.value.reason == "BAD_ID_MAP"


def test_a_users_ranges_follow_one_another(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("other:1:1\nroot:100000:10\n0:300000:5\nbroken\n")
    (tmp_path / "subgid").write_text("root:400000:20\n")
    maps = resolve_maps(UserNamespace(remap="root"), tmp_path)
    assert maps.uids == (IdRange(0, 100_000, 10), IdRange(10, 300_000, 5))
    assert maps.gids == (IdRange(0, 400_000, 20),)


def test_a_user_without_ranges_is_told_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("")
    with pytest.raises(NotFound) as caught:
        resolve_maps(UserNamespace(remap="root"), tmp_path)
    assert caught.value.hint == "add a line to it: root:100000:65536"


def test_every_file_is_given_to_the_id_outside_once_and_keeps_its_mode(tmp_path: Path) -> None:
    root, host = tmp_path / "root", tmp_path / "host"
    (root / "d").mkdir(parents=True)
    (root / "d" / "set-id").write_text("x")
    (root / "d" / "set-id").chmod(0o4755)
    os.link(root / "d" / "set-id", root / "again")
    (root / "foreign").write_text("x")
    os.chown(root / "foreign", 70_000, 7)
    host.write_text("host")
    (root / "out").symlink_to(host)
    shift(root, MAPS)
    for name in (".", "d", "d/set-id", "again", "out"):
        found = (root / name).lstat()
        assert (found.st_uid, found.st_gid) == (100_000, 200_000), name
    assert stat.S_IMODE((root / "again").stat().st_mode) == 0o4755
    assert (root / "foreign").stat().st_uid == 70_000, "no id of the map: nobody's inside"
    assert (root / "foreign").stat().st_gid == 200_007
    assert host.stat().st_uid == 0, "a symlink was followed out of the root"


def test_file_capabilities_count_in_the_namespace_alone() -> None:
    plain = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    assert namespaced(plain, 100_000) == struct.pack("<IIIIII", 0x03000001, 0x400, 0, 0, 0, 100_000)
    bound = struct.pack("<IIIIII", 0x03000001, 0x400, 0, 0, 0, 5)
    assert namespaced(bound, 100_000) == bound

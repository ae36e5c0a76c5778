"""The spec of a container: its working directory, its mounts, its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlopd.core.oci import (
    MountKind,
    Resources,
    SpecMount,
)
from orlopd.plugin.errors import InvalidArgument, NotFound
from tests.support.specs import build, image, mounts

# --- Working directory


def test_the_working_directory_is_the_requests_the_images_or_the_root() -> None:
    config = image(working_dir="srv/app")
    assert build()["process"]["cwd"] == "/"
    assert build(image=config)["process"]["cwd"] == "/srv/app"
    assert build(image=config, working_dir="/tmp/../var")["process"]["cwd"] == "/var"


@pytest.mark.parametrize(
    "path", ["/proc/self/fd/7", "/proc/1/cwd", "proc/self/fd/8/../..", "//proc//thread-self/fd/3"]
)
def test_cve_2024_21626_a_working_directory_in_proc_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="/proc"):
        build(image=image(working_dir=path))


@pytest.mark.parametrize("target", ["/proc/self/fd/7", "../../../../proc/self/fd/7", "loop/x"])
def test_cve_2024_21626_a_symlink_of_the_image_to_there_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").symlink_to(target)
    (tmp_path / "a/loop").symlink_to("/proc/self/fd")
    with pytest.raises(InvalidArgument):
        build(tmp_path, image=image(working_dir="/a/b/deeper"))


def test_cve_2026_55686_a_working_directory_behind_a_symlink_makes_nothing_on_the_host(
    tmp_path: Path,
) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (root / "work").symlink_to(outside)
    build(root, image=image(working_dir="/app/made/here"))
    assert list(outside.iterdir()) == []
    assert [each.name for each in root.iterdir()] == ["work"]


def test_a_ring_of_symlinks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InvalidArgument, match="too many symlinks"):
        build(tmp_path, working_dir="/a")


# --- Mounts and limits


def test_a_bind_is_private_and_recursive_by_default(tmp_path: Path) -> None:
    spec = build(mounts=(SpecMount(MountKind.BIND, "/data", str(tmp_path), read_only=True),))
    assert mounts(spec)["/data"] == {
        "destination": "/data",
        "type": "bind",
        "source": str(tmp_path),
        "options": ["rbind", "rprivate", "ro"],
    }


def test_a_mount_comes_after_those_it_lies_in(tmp_path: Path) -> None:
    wanted = [SpecMount(MountKind.BIND, path, str(tmp_path)) for path in ("/a/b/c", "/a", "/a/b")]
    assert [each for each in mounts(build(mounts=tuple(wanted))) if each.startswith("/a")] == [
        "/a",
        "/a/b",
        "/a/b/c",
    ]


def test_a_mount_of_the_request_covers_the_default_one() -> None:
    spec = build(mounts=(SpecMount(MountKind.TMPFS, "/dev/shm", options=("size=64m",)),))
    assert [m["options"] for m in spec["mounts"] if m["destination"] == "/dev/shm"] == [
        ["nosuid", "nodev", "noexec", "size=64m", "rw"]
    ]


def test_cve_2021_43816_nothing_behind_a_bind_is_relabelled(tmp_path: Path) -> None:
    spec = build(mounts=(SpecMount(MountKind.BIND, "/data", str(tmp_path)),))
    assert "mountLabel" not in spec["linux"]
    assert not {"z", "Z"} & set(mounts(spec)["/data"]["options"])


def test_a_missing_source_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not there"):
        build(mounts=(SpecMount(MountKind.BIND, "/data", str(tmp_path / "missing")),))
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    "mount",
    [
        SpecMount(MountKind.BIND, "data", "/tmp"),
        SpecMount(MountKind.BIND, "/", "/tmp"),
        SpecMount(MountKind.BIND, "/x/..", "/tmp"),
        SpecMount(MountKind.BIND, "/data", "tmp"),
        SpecMount(MountKind.BIND, "/data", ""),
        SpecMount(MountKind.TMPFS, "/data", options=("size=1m,exec",)),
        SpecMount(MountKind.TMPFS, "/da\0ta"),
    ],
)
def test_a_malformed_mount_is_an_error(mount: SpecMount) -> None:
    with pytest.raises(InvalidArgument):
        build(mounts=(mount,))


def test_two_mounts_on_one_place_are_an_error(tmp_path: Path) -> None:
    twice = (SpecMount(MountKind.BIND, "/d", str(tmp_path)), SpecMount(MountKind.TMPFS, "/x/../d/"))
    with pytest.raises(InvalidArgument, match="two mounts"):
        build(mounts=twice)


def test_limits_become_cgroup_settings() -> None:
    limits = build(resources=Resources(64 << 20, 700_000_000, 32))["linux"]["resources"]
    assert limits["memory"] == {"limit": 64 << 20}
    assert limits["cpu"] == {"quota": 70_000, "period": 100_000}
    assert limits["pids"] == {"limit": 32}


@pytest.mark.parametrize(
    "limits", [Resources(-1), Resources(4096), Resources(nano_cpus=1), Resources(pids=-2)]
)
def test_limits_nothing_could_run_in_are_errors(limits: Resources) -> None:
    with pytest.raises(InvalidArgument):
        build(resources=limits)


@pytest.mark.parametrize("hostname", ["a b", "-a", "x" * 65, "a\n", "a/b", "$(id)"])
def test_a_malformed_host_name_is_an_error(hostname: str) -> None:
    with pytest.raises(InvalidArgument, match="host name"):
        build(hostname=hostname)

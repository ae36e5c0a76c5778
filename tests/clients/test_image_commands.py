"""The commands for images, without a terminal."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from pathlib import Path
from typing import Any


def test_pull_tells_steps_in_lines_when_there_is_no_terminal(world: Any) -> None:
    done = world.run("pull", "alpine")
    assert done.stdout == b"docker.io/library/alpine:latest\n"
    assert done.stderr.decode().splitlines() == [
        "docker.io/library/alpine:latest: resolved sha256:" + "0123456789abcdef" * 4,
        "manifest 0123456789ab: fetched",
        "layer aaaaaaaaaaaa: fetching 2.0 MiB",
        "layer aaaaaaaaaaaa: fetched",
        "layer bbbbbbbbbbbb: fetching 2.0 MiB",
        "layer bbbbbbbbbbbb: fetched",
        "layer aaaaaaaaaaaa: unpacked",
        "layer bbbbbbbbbbbb: unpacked",
    ]


def test_what_pull_and_export_ask_for(world: Any) -> None:
    world.ok("pull", "-q", "a")
    assert (world.record("pull")["discard"], world.record("pull")["all_platforms"]) == (None, False)
    platform = ("--platform", "windows(10.0.17763)/amd64")
    world.ok("pull", "-q", "--all-platforms", "--discard-unpacked", *platform, "b")
    world.ok("pull", "-q", "--keep-unpacked", "c")
    asked = world.records("pull")
    assert [each["discard"] for each in asked] == [None, True, False]
    assert (asked[1]["all_platforms"], asked[1]["os_version"]) == (True, "10.0.17763")
    assert b"is no platform" in world.run("pull", "--platform", "windows(10/amd64", "a").stderr
    world.ok("export", "--all-platforms", "a")
    world.ok("export", "--skip-missing", "a")
    asked = world.records("skip_missing")
    assert [(each["all_platforms"], each["skip_missing"]) for each in asked] == [(True, False), (False, True)]


def test_referrers_in_a_table_and_in_json(world: Any) -> None:
    lines = world.ok("referrers", "--type", "a/b", "alpine").splitlines()
    assert lines[0].split() == ["DIGEST", "TYPE", "SIZE"]
    assert lines[1].split()[1:] == ["a/b", "3", "B"]
    assert world.record("referrers") == {"referrers": "alpine", "type": "a/b"}
    told = json.loads(world.ok("referrers", "--output", "json", "alpine"))
    assert told["listed"][0]["annotations"] == {"k": "v"}


def test_run_tells_the_steps_of_its_pull(world: Any) -> None:
    done = world.run("run", "pulled", "echo", "hi")
    assert done.stdout == b"hi\n"
    assert b"layer aaaaaaaaaaaa: unpacked\n" in done.stderr


def test_images_in_a_table_and_in_json(world: Any) -> None:
    for name in ("b", "a"):
        world.ok("pull", "-q", name)
    assert world.ok("images", "-q").split() == [f"docker.io/library/{name}:latest" for name in "ab"]
    assert "linux/amd64" in world.ok("images")
    listed = json.loads(world.ok("images", "--output", "json"))
    assert [image["size"] for image in listed] == [3_500_000, 3_500_000]
    assert world.ok("rmi", "a").splitlines()[0] == "untagged a"
    assert json.loads(world.ok("image", "ls", "--format", "json"))[0]["platforms"][0]["os"] == "linux"


def test_import_and_export(world: Any, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"x" * 2_500_000)
    assert world.ok("import", "--name", "mine", str(tmp_path / "archive")) == "mine\n"
    assert b"unpacked" in world.run("import", str(tmp_path / "archive")).stderr
    assert world.ok("import", "-q", "--discard-unpacked", "-", input=b"y" * 100) == "from/archive:1\n"
    assert [record["discard"] for record in world.records("imported")] == [None, None, True]
    assert [record["imported"] for record in world.records("imported")] == [2_500_000, 2_500_000, 100]
    world.ok("export", "a", "b", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b"ab"
    assert world.ok("export", "a") == "a"


def test_import_of_a_bad_archive(world: Any) -> None:
    done = world.run("import", "-", input=b"bad" * 5_000_000)
    assert (done.returncode, done.stderr) == (1, b"orlop: the archive is truncated\n")
    done = world.run("import", "/nowhere.tar")
    assert (done.returncode, done.stderr) == (1, b"orlop: /nowhere.tar: No such file or directory\n")


def test_export_that_fails_leaves_the_file_as_it_was(world: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    assert world.run("export", "missing", "-o", str(tmp_path / "out")).returncode == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "before"}


def test_image_build_is_a_function_of_the_tree(world: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "z").mkdir(parents=True)
    (root / "z" / "file").write_bytes(b"x" * 1500)
    os.link(root / "z" / "file", root / "z" / "linked")
    (root / "a").symlink_to("z/file")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
    os.utime(root / "z" / "file", (1, 1_000_000_000))
    (root / "z").chmod(0o2750)
    arguments = ("image", "build", "--from-dir", str(root), "--entrypoint", "/app 'a b'", "--cmd", '["x"]')
    assert world.ok(*arguments, "-e", "A=1", "-l", "k=v", "mine").startswith("mine sha256:")
    first = world.tar.read_bytes()
    asked = world.records("build")[0]
    assert asked["entrypoint"] == ["/app", "a b"]
    assert (asked["cmd"], asked["env"], asked["labels"]) == (["x"], ["A=1"], {"k": "v"})
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        members = {m.name: m for m in tar}
    assert list(members) == ["a", "pipe", "z", "z/file", "z/linked"]
    assert members["a"].linkname == "z/file"
    assert members["z/linked"].islnk()
    assert members["z"].mode == 0o2750
    assert members["z/file"].mtime == 1_000_000_000
    world.ok(*arguments, "mine")
    assert world.tar.read_bytes() == first

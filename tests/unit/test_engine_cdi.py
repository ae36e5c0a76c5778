"""Devices: by their nodes, and by the Container Device Interface (its SPEC.md)."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from orlopd.core.oci import BuildOptions, IdMaps, IdRange, Security, SpecDevice, build_spec
from orlopd.core.oci.cdi import annotated, parse_name, read_spec
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound

GPU = {
    "cdiVersion": "0.6.0",
    "kind": "vendor.com/gpu",
    "containerEdits": {"env": ["DRIVER=1"], "mounts": [
        {"hostPath": "/usr/lib", "containerPath": "/usr/lib/vendor",
         "options": ["ro", "nosuid", "nodev", "bind"]}
    ]},
    "devices": [
        {"name": "zero", "containerEdits": {
            "env": ["GPU=zero"],
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/zero", "permissions": "rw", "gid": 44}],
        }},
        {"name": "1", "containerEdits": {
            "env": ["GPU=one"],
            "deviceNodes": [{"path": "/dev/gpu1", "type": "c", "major": 1, "minor": 5, "fileMode": 384}],
            "hooks": [
                {"hookName": "createContainer", "path": "/bin/hook", "args": ["hook", "x"], "timeout": 5}
            ],
        }},
    ],
}  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tmp_path / "etc", tmp_path / "run"
    first.mkdir()
    second.mkdir()
    return first, second


def put(path: Path, spec: dict[str, Any], **changes: Any) -> None:
    value = {**spec, **changes}
    path.write_text(json.dumps(value) if path.suffix == ".json" else yaml.safe_dump(value))


def build(folders: tuple[Path, ...], *names: str, **options: Any) -> Any:
    devices = tuple(SpecDevice(cdi=name) for name in names)
    wanted = BuildOptions("ns", "box", args=("true",), devices=devices, cdi_folders=folders, **options)
    return build_spec(wanted, None)


# --- CDI


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_a_devices_edits_come_with_those_of_its_file_once(folders: tuple[Path, Path], name: str) -> None:
    put(folders[0] / name, GPU)
    spec = build(folders, "vendor.com/gpu=zero", "vendor.com/gpu=1", "vendor.com/gpu=zero")
    env = spec["process"]["env"]
    assert env.count("DRIVER=1") == 1
    assert "GPU=one" in env, "the later device's variable counts"
    assert "GPU=zero" not in env
    nodes = {node["path"]: node for node in spec["linux"]["devices"]}
    assert nodes["/dev/gpu0"] == {
        "path": "/dev/gpu0", "type": "c", "major": 1, "minor": 5, "gid": 44,
        "fileMode": stat.S_IMODE(Path("/dev/zero").stat().st_mode),
    }  # fmt: skip
    assert nodes["/dev/gpu1"]["fileMode"] == 0o600
    rules = spec["linux"]["resources"]["devices"]
    assert {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rw"} in rules
    assert {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"} in rules
    (mount,) = [each for each in spec["mounts"] if each["destination"] == "/usr/lib/vendor"]
    assert mount["options"] == ["ro", "nosuid", "nodev", "bind"]
    assert spec["hooks"] == {"createContainer": [{"path": "/bin/hook", "args": ["hook", "x"], "timeout": 5}]}
    assert spec["ociVersion"] == "1.0.2"


def test_groups_and_cache_classes_of_newer_versions(folders: tuple[Path, Path]) -> None:
    edits = {"additionalGids": [0, 7, 7], "intelRdt": {"closID": "guaranteed"}}
    put(folders[0] / "a.json", GPU, cdiVersion="0.7.0", containerEdits=edits)
    spec = build(folders, "vendor.com/gpu=zero")
    assert spec["process"]["user"]["additionalGids"] == [0, 7]
    assert spec["linux"]["intelRdt"] == {"closID": "guaranteed"}


def test_the_later_folder_counts_and_two_files_of_one_are_a_conflict(folders: tuple[Path, Path]) -> None:
    put(folders[0] / "a.json", GPU)
    put(folders[1] / "b.json", GPU, containerEdits={"env": ["DRIVER=2"]})
    assert "DRIVER=2" in build(folders, "vendor.com/gpu=zero")["process"]["env"]
    put(folders[1] / "c.yaml", GPU)
    with pytest.raises(FailedPrecondition) as caught:
        build(folders, "vendor.com/gpu=zero")
    assert caught.value.reason == "CDI_CONFLICT"
    assert "b.json" in caught.value.message
    assert "c.yaml" in caught.value.message


def test_a_device_that_is_not_there_is_told_with_what_there_is_and_what_was_not_read(
    folders: tuple[Path, Path],
) -> None:
    put(folders[0] / "a.json", GPU)
    (folders[0] / "broken.yaml").write_text("kind: [")
    (folders[0] / "ignored.txt").write_text("no specification")
    with pytest.raises(NotFound) as caught:
        build(folders, "vendor.com/gpu=nine")
    assert caught.value.reason == "CDI_DEVICE_NOT_FOUND"
    assert "broken.yaml" in caught.value.message
    assert "vendor.com/gpu=zero" in caught.value.hint
    assert "ignored" not in caught.value.message


@pytest.mark.parametrize(
    "name", ["vendor.com/gpu", "gpu=0", "/dev/gpu=0", "vendor.com/gpu=", "-v/gpu=0", "v/g/x=0", "v/gpu=a b"]
)
def test_a_name_that_is_not_qualified_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_name(name)
    assert caught.value.reason == "BAD_DEVICE_NAME"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cdiVersion": "9.9.9"}, "cdiVersion"),
        ({"cdiVersion": "0.3.0"}, "came with 0.5.0"),
        ({"kind": "gpu"}, "VENDOR/CLASS"),
        ({"unknown": 1}, "unknown"),
        ({"devices": []}, "devices"),
        ({"devices": [{"name": "a", "containerEdits": {}}]}, "no edits"),
        ({"devices": [{"name": "a/b", "containerEdits": {"env": ["A=1"]}}]}, "no name"),
        ({"devices": [{"name": "a", "containerEdits": {"env": ["A"]}}]}, "KEY=VALUE"),
        ({"devices": [{"name": "a", "containerEdits": {"deviceNodes": [{"path": "dev"}]}}]}, "absolute"),
        ({"containerEdits": {"hooks": [{"hookName": "never", "path": "/x"}]}}, "hookName"),
        ({"containerEdits": {"additionalGids": ["1"]}}, "additionalGids"),
        ({"devices": [{"name": "a", "containerEdits": {"env": ["A=1"]}}] * 2}, "one name"),
    ],
)
def test_a_file_that_breaks_the_schema_says_where(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    put(tmp_path / "a.json", GPU, **change)
    with pytest.raises(InvalidArgument) as caught:
        read_spec(tmp_path / "a.json")
    assert caught.value.reason == "BAD_CDI_SPEC"
    assert said in caught.value.message


def test_a_node_of_the_machine_that_is_missing_or_none_is_told(folders: tuple[Path, Path]) -> None:
    for path in ("/dev/no-such-node", "/etc/passwd"):
        edits = {"deviceNodes": [{"path": "/dev/x", "hostPath": path}]}
        put(folders[0] / "a.json", GPU, devices=[{"name": "x", "containerEdits": edits}])
        with pytest.raises(FailedPrecondition) as caught:
            build(folders, "vendor.com/gpu=x")
        assert path in caught.value.message


def test_annotations_of_the_request_name_devices(folders: tuple[Path, Path]) -> None:
    put(folders[0] / "a.json", GPU)
    annotations = {
        "cdi.k8s.io/plugin": "vendor.com/gpu=zero,vendor.com/gpu=1",
        "other": "vendor.com/gpu=nine",
    }
    assert annotated(annotations) == ["vendor.com/gpu=zero", "vendor.com/gpu=1"]
    spec = build(folders, annotations=annotations)
    assert {node["path"] for node in spec["linux"]["devices"]} == {"/dev/gpu0", "/dev/gpu1"}


# --- Nodes


def nodes(*devices: SpecDevice, **options: Any) -> Any:
    return build_spec(BuildOptions("ns", "box", args=("true",), devices=devices, **options), None)["linux"]


def test_a_node_is_there_with_its_rule_and_no_other() -> None:
    linux = nodes(SpecDevice("/dev/full", target="/dev/x", permissions="r"))
    (node,) = linux["devices"]
    found = Path("/dev/full").stat()
    assert (node["path"], node["type"], node["major"], node["minor"]) == ("/dev/x", "c", 1, 7)
    assert (node["uid"], node["gid"]) == (found.st_uid, found.st_gid)
    assert linux["resources"]["devices"][-1] == {
        "allow": True, "type": "c", "access": "r", "major": 1, "minor": 7
    }  # fmt: skip


def test_a_folder_gives_its_nodes(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    os.mknod(tmp_path / "deep" / "zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    (tmp_path / "file").write_text("no device")
    linux = nodes(SpecDevice(str(tmp_path), target="/dev/set"))
    assert [node["path"] for node in linux["devices"]] == ["/dev/set/deep/zero"]


def test_in_a_user_namespace_a_node_is_nobodys_own() -> None:
    maps = IdMaps((IdRange(0, 100_000, 100),), (IdRange(0, 100_000, 100),))
    (node,) = nodes(SpecDevice("/dev/full"), maps=maps)["devices"]
    assert "uid" not in node


@pytest.mark.parametrize(
    ("device", "error"),
    [
        (SpecDevice("/dev/no-such-node"), NotFound),
        (SpecDevice("/etc/passwd"), InvalidArgument),
        (SpecDevice("dev/null"), InvalidArgument),
        (SpecDevice("/dev/null", permissions="x"), InvalidArgument),
        (SpecDevice("/dev/null", target="dev"), InvalidArgument),
    ],
)
def test_what_is_no_device_is_refused(device: SpecDevice, error: type[Exception]) -> None:
    with pytest.raises(error):
        nodes(device)


def test_a_privileged_container_has_every_node_and_nothing_is_masked() -> None:
    linux = nodes(security=Security(privileged=True))
    assert {"/dev/null", "/dev/zero"} <= {node["path"] for node in linux["devices"]}
    assert linux["resources"]["devices"][-1] == {"allow": True, "access": "rwm"}
    assert (linux["maskedPaths"], linux["readonlyPaths"], "seccomp" in linux) == ([], [], False)

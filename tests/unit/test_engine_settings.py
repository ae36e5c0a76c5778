"""Limits, kernel settings, filters and namespaces: what is asked, in the words of an OCI runtime spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orlopd.core.healthcheck import Healthcheck, resolve_check
from orlopd.core.oci import (
    BlockLimit,
    BuildOptions,
    IdMaps,
    IdRange,
    MountKind,
    Namespace,
    Namespaces,
    Network,
    Resources,
    Rootfs,
    Security,
    SpecMount,
    SpecRlimit,
    build_spec,
)
from orlopd.core.oci.machine import Machine
from orlopd.core.oci.resources import build_resources
from orlopd.core.oci.seccomp import default_profile
from orlopd.core.oci.security import apparmor_profile, build_rlimits, parse_seccomp
from orlopd.core.spec_changes import SpecChange, changes
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound

MAPS = IdMaps((IdRange(0, 100_000, 1000),), (IdRange(0, 100_000, 1000),))


def build(**options: Any) -> Any:
    return json.loads(json.dumps(build_spec(BuildOptions("ns", "box", args=("true",), **options), None)))


def kinds(spec: Any) -> set[str]:
    return {each["type"] for each in spec["linux"]["namespaces"]}


def mounts(spec: Any) -> dict[str, Any]:
    return {mount["destination"]: mount for mount in spec["mounts"]}


# --- Limits


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One with four processors, one of them off, and two sizes of huge pages."""
    for name, text in (("cpu/online", "0-1,3"), ("node/has_memory", "0")):
        path = tmp_path / "devices/system" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"{text}\n")
    for size in (2048, 1048576):
        (tmp_path / f"kernel/mm/hugepages/hugepages-{size}kB").mkdir(parents=True)
    return Machine(tmp_path)


def test_every_limit_is_where_the_specification_has_it(machine: Machine) -> None:
    wanted = Resources(
        memory_bytes=64 << 20, memory_swap_bytes=128 << 20, memory_reservation_bytes=32 << 20, pids=50,
        cpu_shares=512, cpu_quota=20_000, cpu_period=50_000, cpuset_cpus="0-1,3", cpuset_mems="0",
        block_weight=300, huge_pages={"2MB": 4 << 20}, unified={"memory.high": "60M"},
        device_rules=("c 10:200 rwm", "b *:* r"),
    )  # fmt: skip
    limits: Any = build_resources(wanted, machine)
    assert limits["memory"] == {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20}
    assert limits["cpu"] == {"shares": 512, "quota": 20_000, "period": 50_000, "cpus": "0-1,3", "mems": "0"}
    assert limits["pids"] == {"limit": 50}
    assert limits["blockIO"] == {"weight": 300}
    assert limits["hugepageLimits"] == [{"pageSize": "2MB", "limit": 4 << 20}]
    assert limits["unified"] == {"memory.high": "60M"}
    assert limits["devices"][-2:] == [
        {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"},
        {"allow": True, "type": "b", "access": "r"},
    ]


def test_all_of_a_machines_processors_may_be_asked_for_and_no_more(machine: Machine) -> None:
    assert build_resources(Resources(nano_cpus=3 * 10**9), machine).get("cpu") == {
        "quota": 300_000,
        "period": 100_000,
    }
    with pytest.raises(InvalidArgument, match=r"1000000 processors: the range is from 0\.01 to 3"):
        build_resources(Resources(nano_cpus=10**15), machine)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Resources(nano_cpus=3_000_000_001), "the range is from 0.01 to 3"),
        (Resources(nano_cpus=9_000_000), "0.009 processors: the range is from 0.01 to 3"),
        (Resources(cpuset_cpus="77"), "processors 77 are not all available: this machine has 0-1,3"),
        (Resources(cpuset_cpus="1-3"), "processors 1-3 are not all available"),
        (Resources(cpuset_cpus="1-0"), "is no set of processors"),
        (Resources(cpuset_cpus="0-99999," * 1000 + "0"), "is no set of processors"),
        (Resources(cpuset_cpus="\u0661"), "is no set of processors"),
        (Resources(cpuset_mems="0-1"), "memory nodes 0-1 are not all available: this machine has 0"),
        (Resources(huge_pages={"3MB": 1}), "no huge pages of 3MB; available: 2MB, 1GB"),
    ],
)
def test_what_the_machine_does_not_have_cannot_be_given(
    machine: Machine, wanted: Resources, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=said):
        build_resources(wanted, machine)


def test_more_open_files_than_the_machine_allows_are_refused() -> None:
    most = Machine().most_files
    assert build_rlimits([], [SpecRlimit("nofile", most, most)])
    with pytest.raises(InvalidArgument, match=f"this machine allows {most} at most"):
        build_rlimits([], [SpecRlimit("nofile", 10, most + 1)])


def test_limits_of_a_block_device_name_its_numbers(tmp_path: Path) -> None:
    import os
    import stat

    os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 3))
    one = BlockLimit(str(tmp_path / "disk"), 200, read_bytes=10, write_operations=5)
    block = build(resources=Resources(block_limits=(one,)))["linux"]["resources"]["blockIO"]
    assert block == {
        "weightDevice": [{"major": 7, "minor": 3, "weight": 200}],
        "throttleReadBpsDevice": [{"major": 7, "minor": 3, "rate": 10}],
        "throttleWriteIOPSDevice": [{"major": 7, "minor": 3, "rate": 5}],
    }
    with pytest.raises(InvalidArgument):
        build(resources=Resources(block_limits=(BlockLimit("/dev/null", 200),)))
    with pytest.raises(NotFound):
        build(resources=Resources(block_limits=(BlockLimit("/dev/no-such", 200),)))


@pytest.mark.parametrize(
    "limits",
    [
        Resources(nano_cpus=10**9, cpu_quota=1000),
        Resources(memory_swap_bytes=1 << 30),
        Resources(memory_bytes=64 << 20, memory_swap_bytes=32 << 20),
        Resources(memory_bytes=64 << 20, memory_reservation_bytes=128 << 20),
        Resources(cpu_shares=1),
        Resources(cpu_period=5),
        Resources(cpuset_cpus="0;reboot"),
        Resources(block_weight=5),
        Resources(huge_pages={"big": 1}),
        Resources(unified={"cgroup.procs": "1"}),
        Resources(unified={"../memory.max": "1"}),
        Resources(device_rules=("all",)),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: Resources) -> None:
    with pytest.raises(InvalidArgument):
        build(resources=limits)


def test_limits_of_processes_replace_the_default_of_their_kind() -> None:
    rlimits = build(rlimits=(SpecRlimit("nofile", 5, 6), SpecRlimit("RLIMIT_CORE", -1, -1)))["process"][
        "rlimits"
    ]
    assert {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6} in rlimits
    assert {"type": "RLIMIT_CORE", "soft": 2**64 - 1, "hard": 2**64 - 1} in rlimits
    assert len(rlimits) == 2
    for bad in (SpecRlimit("files", 1, 1), SpecRlimit("core", 2, 1), SpecRlimit("core", -2, 1)):
        with pytest.raises(InvalidArgument):
            build(rlimits=(bad,))


# --- Kernel settings


def test_kernel_settings_of_its_own_namespaces_are_set() -> None:
    asked = {"net.ipv4.ip_local_port_range": "1024 65000", "kernel.shmmax": "1", "fs.mqueue.msg_max": "9"}
    assert build(sysctls=asked)["linux"]["sysctl"] == asked


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kernel.shmmax", "1+kernel.core_pattern=|/bin/evil"),
        ("kernel.shmmax", "1=2"),
        ("net.ipv4.ip_forward", "1\nkernel.core_pattern"),
        ("kernel.core_pattern", "|/bin/evil"),
        ("vm.overcommit_memory", "1"),
        ("net", "1"),
        ("net/../kernel/core_pattern", "x"),
        ("net.ipv4.ip_forward", ""),
    ],
)
def test_cve_2022_0811_a_setting_cannot_carry_another_or_be_the_machines(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build(sysctls={key: value})
    assert caught.value.reason == "BAD_SYSCTL"


def test_a_setting_of_a_shared_namespace_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        build(sysctls={"net.ipv4.ip_forward": "1"}, network=Network.HOST)
    with pytest.raises(InvalidArgument):
        build(sysctls={"kernel.shmmax": "1"}, namespaces=Namespaces(ipc=Namespace.HOST))


# --- Filters and profiles


def test_a_profile_of_ones_own_takes_the_place_of_the_default() -> None:
    own = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}
    built = build(security=Security(seccomp=json.dumps(own)))["linux"]["seccomp"]
    assert built == {**own, "architectures": []}
    assert "seccomp" not in build(security=Security(seccomp="unconfined"))["linux"]


def test_a_profile_in_dockers_form_is_taken_by_machine_kernel_and_capabilities() -> None:
    own = {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_BPF"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.0"}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        ],
    }  # fmt: skip

    def names(*capabilities: str, machine: str = "x86_64", kernel: str = "4.19.0-1") -> list[str]:
        built = parse_seccomp(json.dumps(own), capabilities, machine, kernel)
        return [name for rule in built["syscalls"] for name in rule["names"]]

    assert names() == ["b"]
    assert names("CAP_BPF", kernel="6.1.0") == ["a", "c"]
    assert names(machine="aarch64", kernel="5.0") == ["b", "c", "d"]
    built = parse_seccomp(json.dumps(own), (), "x86_64", "6.1")
    assert built["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


@pytest.mark.parametrize("text", ["nonsense", "[]", "{}", '{"defaultAction": "x", "syscalls": 5}',
                                  '{"defaultAction": "x", "syscalls": [{"names": []}]}'])  # fmt: skip
def test_a_malformed_profile_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build(security=Security(seccomp=text))
    assert caught.value.reason == "BAD_SECCOMP_PROFILE"


def test_tracing_is_allowed_on_kernels_where_it_is_no_way_around() -> None:
    def allowed(kernel: str, *capabilities: str) -> bool:
        profile = default_profile(capabilities, "x86_64", kernel)
        assert profile is not None
        return "ptrace" in profile["syscalls"][0]["names"]

    assert allowed("6.1.0-13-amd64")
    assert not allowed("4.4.0")
    assert allowed("4.4.0", "CAP_SYS_PTRACE")


def test_apparmor_counts_where_it_is_enabled(tmp_path: Path) -> None:
    enabled, profiles = tmp_path / "enabled", tmp_path / "profiles"
    with pytest.raises(FailedPrecondition):
        apparmor_profile("mine", enabled=enabled, profiles=profiles)
    assert apparmor_profile("", enabled=enabled, profiles=profiles) == ""
    enabled.write_text("Y\n")
    profiles.write_text("mine (enforce)\n")
    assert apparmor_profile("mine", enabled=enabled, profiles=profiles) == "mine"
    assert apparmor_profile("", enabled=enabled, profiles=profiles) == ""
    profiles.write_text("orlop-default (enforce)\n")
    assert apparmor_profile("", enabled=enabled, profiles=profiles) == "orlop-default"
    with pytest.raises(NotFound):
        apparmor_profile("mine", enabled=enabled, profiles=profiles)


def test_rights_can_be_kept_from_growing() -> None:
    assert not build()["process"]["noNewPrivileges"]
    assert build(security=Security(no_new_privileges=True))["process"]["noNewPrivileges"]


# --- Namespaces and mounts


def test_namespaces_are_its_own_unless_the_machines_are_asked_for() -> None:
    host = Namespace.HOST
    shared = kinds(build(namespaces=Namespaces(host, host, host, host)))
    assert shared == {"mount", "network"}
    assert "cgroup" in kinds(build(namespaces=Namespaces(cgroup=Namespace.PRIVATE)))
    assert "hostname" not in build(namespaces=Namespaces(uts=host), hostname="box")
    assert mounts(build(namespaces=Namespaces(ipc=host)))["/dev/shm"]["type"] == "bind"


def test_a_user_namespace_has_maps_and_mounts_that_it_may_make() -> None:
    spec = build(maps=MAPS)
    assert "user" in kinds(spec)
    assert spec["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 100_000, "size": 1000}]
    assert mounts(spec)["/sys"]["type"] == "sysfs"
    shared = mounts(build(maps=MAPS, network=Network.HOST))["/sys"]
    assert (shared["type"], "ro" in shared["options"]) == ("bind", True)
    few = IdMaps((IdRange(0, 100_000, 2),), (IdRange(0, 100_000, 2),))
    assert "gid=5" not in mounts(build(maps=few))["/dev/pts"]["options"]
    with pytest.raises(InvalidArgument):
        build(maps=MAPS, security=Security(privileged=True))


def test_propagation_of_a_mount_reaches_the_root(tmp_path: Path) -> None:
    def propagation(*options: str) -> Any:
        mount = SpecMount(MountKind.BIND, "/data", str(tmp_path), options=options)
        return build(mounts=(mount,))["linux"].get("rootfsPropagation")

    assert propagation() is None
    assert propagation("rslave") == "rslave"
    assert propagation("rshared") == "rshared"


def test_groups_are_added_by_name_or_number(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("audio:x:29:\n")
    with Rootfs.open(tmp_path) as rootfs:
        options = BuildOptions("ns", "box", args=("true",), group_add=("audio", "77", "29"))
        assert build_spec(options, rootfs)["process"]["user"].get("additionalGids") == [0, 29, 77]


def test_shared_memory_annotations_and_badness() -> None:
    spec = build(shm_bytes=1 << 20, annotations={"a": "b"}, oom_score_adj=500)
    assert f"size={1 << 20}" in mounts(spec)["/dev/shm"]["options"]
    assert spec["annotations"] == {"a": "b"}
    assert spec["process"]["oomScoreAdj"] == 500
    assert spec["ociVersion"] == "1.0.2"


# --- Health checks


def test_a_check_is_the_requests_over_the_images_over_the_defaults() -> None:
    image = Healthcheck(("CMD", "test"), interval=9, retries=7)
    assert resolve_check(None, image) == Healthcheck(("CMD", "test"), 9, 30, 0, 5, 7)
    assert resolve_check(Healthcheck(interval=2), image) == Healthcheck(("CMD", "test"), 2, 30, 0, 5, 7)
    assert resolve_check(Healthcheck(("NONE",)), image) is None
    assert resolve_check(None, None) is None
    shell = resolve_check(Healthcheck(("CMD-SHELL", "a b")), None)
    assert shell is not None
    assert shell.command == ("/bin/sh", "-c", "a b")


def test_an_images_check_that_makes_no_sense_or_burns_the_machine_is_tamed() -> None:
    assert resolve_check(None, Healthcheck(("RUN", "x"))) is None
    assert resolve_check(None, Healthcheck(("CMD",))) is None
    fast = resolve_check(None, Healthcheck(("CMD", "x"), interval=1e-9, retries=10**9))
    assert fast is not None
    assert (fast.interval, fast.retries) == (1.0, 1000)
    for bad in (Healthcheck(("CMD",)), Healthcheck(("CMD", "x"), interval=0.001), Healthcheck(retries=10**6)):
        with pytest.raises(InvalidArgument):
            resolve_check(bad, None)


# --- Changes


def test_changes_are_told_by_their_place() -> None:
    before = {"a": {"b/c": [1, 2]}, "gone": 1, "same": [1]}
    after = {"a": {"b/c": [1, 3, 4]}, "new~": {}, "same": [1]}
    assert changes("p", before, after) == [
        SpecChange("p", "/a/b~1c/1", "replace"),
        SpecChange("p", "/a/b~1c/2", "add"),
        SpecChange("p", "/gone", "remove"),
        SpecChange("p", "/new~0", "add"),
    ]

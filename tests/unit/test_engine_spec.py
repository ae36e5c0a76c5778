"""The OCI runtime spec of a container: what it says by default, and what a request and an image change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orlopd.core.oci import (
    DEFAULT_CAPABILITIES,
    Network,
    Rootfs,
    adjust_capabilities,
    build_process,
    inherited_labels,
)
from orlopd.core.oci.seccomp import AF_ALG, AF_VSOCK, default_profile
from orlopd.plugin.errors import InvalidArgument
from tests.support.specs import EVERY, build, image, mounts

# --- Defaults


def test_a_spec_is_json_of_version_1_0_2() -> None:
    spec = json.loads(json.dumps(build()))
    assert spec["ociVersion"] == "1.0.2"
    assert spec["root"] == {"path": "rootfs"}
    assert spec["linux"]["cgroupsPath"] == "/ns/box"


def test_cve_2022_24769_no_capability_is_inheritable_or_ambient() -> None:
    # CVE-2022-27649 and CVE-2022-27652 are the same in other engines.
    for added in ((), ("ALL",), ("net_admin",)):
        capabilities = build(cap_add=added)["process"]["capabilities"]
        assert not capabilities.get("inheritable")
        assert not capabilities.get("ambient")


def test_the_default_capabilities_are_dockers() -> None:
    effective = build()["process"]["capabilities"]["effective"]
    assert set(effective) <= set(DEFAULT_CAPABILITIES)
    assert "CAP_SYS_ADMIN" not in effective


def test_cve_2025_47291_power_readings_are_masked() -> None:
    assert "/sys/devices/virtual/powercap" in build()["linux"]["maskedPaths"]


def test_kernel_settings_are_read_only() -> None:
    linux = build()["linux"]
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(linux["readonlyPaths"])
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "ro" in mounts(build())["/sys"]["options"]


def test_devices_are_refused_but_for_a_few() -> None:
    rules = build()["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    opened = {(rule.get("major"), rule.get("minor")) for rule in rules[1:] if "r" in rule["access"]}
    assert opened == {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None)}


def test_a_network_of_its_own_unless_the_hosts_is_asked_for() -> None:
    def types(spec: Any) -> set[str]:
        return {each["type"] for each in spec["linux"]["namespaces"]}

    assert {"pid", "ipc", "uts", "mount", "network"} <= types(build())
    assert "network" not in types(build(network=Network.HOST))


# --- Seccomp


def allowed(profile: Any, name: str) -> list[Any]:
    return [
        rule for rule in profile["syscalls"] if name in rule["names"] and rule["action"] == "SCMP_ACT_ALLOW"
    ]


def socket_allowed(profile: Any, domain: int) -> bool:
    """Whether the profile lets ``socket`` with this first register through, as the kernel compares it."""
    for rule in allowed(profile, "socket"):
        (arg,) = rule["args"]
        assert arg["op"] == "SCMP_CMP_MASKED_EQ"
        if domain & arg["value"] == arg["valueTwo"]:
            return True
    return False


def test_cve_2026_31431_sockets_to_the_kernels_crypto_are_refused() -> None:
    profile = default_profile(DEFAULT_CAPABILITIES, "x86_64")
    for domain in range(46):
        assert socket_allowed(profile, domain) is (domain not in (AF_ALG, AF_VSOCK)), domain


def test_cve_2026_31431_garbage_above_the_domains_32_bits_is_no_way_around() -> None:
    profile = default_profile(DEFAULT_CAPABILITIES, "x86_64")
    assert not socket_allowed(profile, AF_ALG | 1 << 32)
    assert not socket_allowed(profile, AF_ALG | 0xFFFFFFFF << 32)
    assert socket_allowed(profile, 1 | 1 << 32)


@pytest.mark.parametrize(
    "name", ["socketcall", "io_uring_setup", "io_uring_enter", "add_key", "keyctl", "bpf", "mount"]
)
def test_calls_that_lead_around_it_or_out_are_refused(name: str) -> None:
    assert not allowed(default_profile(DEFAULT_CAPABILITIES, "x86_64"), name)


def test_clone_may_make_no_namespace_without_sys_admin() -> None:
    (rule,) = allowed(default_profile(DEFAULT_CAPABILITIES, "x86_64"), "clone")
    (arg,) = rule["args"]
    assert 0x10000000 & arg["value"] != arg["valueTwo"]  # CLONE_NEWUSER
    (free,) = allowed(default_profile(["CAP_SYS_ADMIN"], "x86_64"), "clone")
    assert "args" not in free


def test_a_capability_brings_its_calls() -> None:
    assert not allowed(default_profile([], "x86_64"), "chroot")
    assert allowed(default_profile(["CAP_SYS_CHROOT"], "x86_64"), "chroot")


def test_an_unknown_architecture_has_no_profile_rather_than_a_wrong_one() -> None:
    assert default_profile([], "vax") is None


# --- Capabilities


def test_adding_and_dropping_by_either_spelling() -> None:
    found = adjust_capabilities(["net_admin", "CAP_SYS_PTRACE"], ["chown"], available=EVERY)
    assert set(found) == set(DEFAULT_CAPABILITIES) - {"CAP_CHOWN"} | {"CAP_NET_ADMIN", "CAP_SYS_PTRACE"}


def test_all_but_one_and_none_but_one() -> None:
    assert set(adjust_capabilities(["ALL"], ["sys_module"], available=EVERY)) == EVERY - {"CAP_SYS_MODULE"}
    assert adjust_capabilities(["kill"], ["all"], available=EVERY) == ["CAP_KILL"]


def test_what_the_daemon_lacks_is_not_in_the_default_set() -> None:
    assert "CAP_MKNOD" not in adjust_capabilities([], [], available=EVERY - {"CAP_MKNOD"})


def test_an_unknown_capability_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="'net_admn'"):
        adjust_capabilities(["net_admn"], [])


# --- The image


def test_arguments_take_the_place_of_the_images_cmd() -> None:
    config = image(entrypoint=("/init",), cmd=("serve",))
    assert build(image=config, args=())["process"]["args"] == ["/init", "serve"]
    assert build(image=config, args=("sh",))["process"]["args"] == ["/init", "sh"]
    assert build(image=config, args=(), entrypoint=("sh",))["process"]["args"] == ["sh"]
    assert build(image=config, args=("ls",), entrypoint=())["process"]["args"] == ["ls"]


def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="nothing to run"):
        build(args=())


def test_environment_is_the_defaults_then_the_images_then_the_requests() -> None:
    spec = build(
        image=image(env=("PATH=/bin", "A=image", "B=image", "broken", "=worse")),
        env=("B=request",),
        hostname="h",
    )
    assert spec["process"]["env"] == ["PATH=/bin", "HOSTNAME=h", "HOME=/root", "A=image", "B=request"]


def test_a_terminal_brings_term() -> None:
    assert "TERM=xterm" in build(terminal=True)["process"]["env"]
    assert not [entry for entry in build()["process"]["env"] if entry.startswith("TERM=")]


@pytest.mark.parametrize("entry", ["", "A", "=x", "A=\0"])
def test_a_malformed_variable_of_the_request_is_an_error(entry: str) -> None:
    with pytest.raises(InvalidArgument):
        build(env=(entry,))


def test_cve_2021_21334_environment_does_not_leak_between_containers_of_one_image() -> None:
    config = image(env=("A=1",))
    build(image=config, env=("SECRET=x",))
    assert "SECRET=x" not in build(image=config)["process"]["env"]
    assert config.env == ("A=1",)


def test_cve_2022_4318_a_newline_in_a_value_or_home_adds_no_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    passwd = tmp_path / "etc/passwd"
    passwd.write_text("root:x:0:0::/root:/bin/sh\n")
    spec = build(tmp_path, image=image(env=("HOME=/x\nevil:x:0:0::/:/bin/sh", "A=1\nB=2")))
    assert passwd.read_text() == "root:x:0:0::/root:/bin/sh\n"
    assert "A=1\nB=2" in spec["process"]["env"]


def test_home_is_the_users_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("me:x:5:5::/home/me:/bin/sh\n")
    assert "HOME=/home/me" in build(tmp_path, user="me")["process"]["env"]
    assert "HOME=/srv" in build(tmp_path, user="me", image=image(env=("HOME=/srv",)))["process"]["env"]
    assert "HOME=/" in build(tmp_path, user="77")["process"]["env"]


def test_cve_2026_53488_an_image_cannot_set_labels_that_steer_the_daemon() -> None:
    labels = {
        "containerd.io/restart.status": "running",
        "containerd.io/gc.root": "x",
        "orlop/name": "stolen",
        "io.cri-containerd.kind": "sandbox",
        "big": "x" * 5000,
        "org.opencontainers.image.title": "fine",
    }
    assert inherited_labels(labels) == {"org.opencontainers.image.title": "fine"}


def test_cve_2022_23648_volumes_of_an_image_mount_and_copy_nothing() -> None:
    config = image(volumes=("../../etc", "/data", "/proc/../../root"))
    assert mounts(build(image=config)).keys() == mounts(build()).keys()


# --- One more process


def test_an_exec_is_as_the_container_unless_it_says_otherwise() -> None:
    base = build(env=("A=1",), working_dir="/srv", terminal=True)["process"]
    process = build_process(base, None, args=["id"])
    assert (process["args"], process["cwd"], process.get("terminal")) == (["id"], "/srv", False)
    assert process.get("capabilities") == base["capabilities"]
    assert "A=1" in process["env"]
    assert not [entry for entry in process["env"] if entry.startswith("TERM=")]


def test_an_exec_of_another_user_has_that_users_home_and_groups(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("me:x:5:6::/home/me:/bin/sh\n")
    base = build(tmp_path)["process"]
    with Rootfs.open(tmp_path) as rootfs:
        process = build_process(base, rootfs, args=["id"], user="me", env=["B=2"], terminal=True)
    assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [6]}
    assert {"HOME=/home/me", "B=2", "TERM=xterm"} <= set(process["env"])


def test_an_exec_changes_nothing_of_the_container() -> None:
    base = build(env=("A=1",))["process"]
    before = json.dumps(base)
    build_process(base, None, args=["id"], env=["A=2"], user="9")
    assert json.dumps(base) == before

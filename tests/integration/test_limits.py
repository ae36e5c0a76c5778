"""Limits and settings as a container sees them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.support.daemon import Daemon

CHANGING = """
from orlopd.plugin import hookimpl

@hookimpl
def orlop_adjust_spec(spec):
    spec["process"]["env"].append("GREETING=hello")
    spec["linux"]["resources"].setdefault("pids", {})["limit"] = 77
"""


def test_what_was_asked_is_what_a_container_has(daemon: Daemon, image: str, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    refused = [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": refused}))
    script = """
        cd /sys/fs/cgroup
        cat cpu/cpu.shares cpu/cpu.cfs_quota_us cpuset/cpuset.cpus memory/memory.soft_limit_in_bytes
        cat /proc/sys/kernel/shmmax /proc/self/oom_score_adj
        ulimit -n; ulimit -c; id -G; grep NoNewPrivs /proc/self/status | tr -d '[:space:]'; echo
        df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2
        mkdir /tmp/x 2>/dev/null || echo filtered
    """
    said = daemon.must(
        daemon.orlop(
            *("run", "--rm", "--cpu-shares", "300", "--cpu-quota", "30000", "--cpuset-cpus", "0"),
            *("--memory-reservation", "48m", "--sysctl", "kernel.shmmax=123456", "--oom-score-adj", "900"),
            *("--ulimit", "nofile=100:200", "--ulimit", "core=0", "--group-add", "extra", "--shm-size", "1m"),
            *("--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}"),
            *("probe", "sh", "-c", script),
        )
    )
    assert said.splitlines() == [
        *("300", "30000", "0", str(48 << 20), "123456", "900"),
        *("100", "0", "0 2000", "NoNewPrivs:1", "1024", "filtered"),
    ]


def test_the_machines_namespaces_can_be_shared(daemon: Daemon, image: str) -> None:
    kinds = "for kind in pid ipc uts; do busybox readlink /proc/self/ns/$kind; done"
    script = f"{kinds}; ls -d /proc/{os.getpid()}"
    said = daemon.must(
        daemon.orlop(
            *("run", "--rm", "--pid", "host", "--ipc", "host", "--uts", "host", "probe", "sh", "-c", script)
        )
    )
    own = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "ipc", "uts")]  # noqa: PTH115
    assert said.split() == [*own, f"/proc/{os.getpid()}"]


def test_a_privileged_container_may_do_what_others_may_not(daemon: Daemon, image: str) -> None:
    script = "mount -t tmpfs tmpfs /tmp && echo mounted; ls /dev/full; : > /proc/sys/kernel/shmmni || true"
    assert daemon.must(
        daemon.orlop("run", "--rm", "--privileged", "probe", "sh", "-c", script + " 2>/dev/null")
    ).split() == ["mounted", "/dev/full"]
    plain = daemon.orlop("run", "--rm", "probe", "mount", "-t", "tmpfs", "tmpfs", "/tmp")
    assert plain.returncode


def test_what_a_plugin_changed_is_told_with_its_name(archive: str) -> None:
    with Daemon(plugins={"changing.py": CHANGING}) as daemon:
        daemon.must(daemon.orlop("import", archive))
        script = "echo $GREETING; cat /sys/fs/cgroup/pids/pids.max"
        daemon.must(daemon.orlop("create", "--name", "box", "probe", "sh", "-c", script))
        (seen,) = json.loads(daemon.must(daemon.orlop("inspect", "box")))
        count = len(seen["oci_spec"]["process"]["env"])
        told = [(each["path"], each["operation"]) for each in seen["spec_changes"]]
        assert told == [(f"/process/env/{count - 1}", "add"), ("/linux/resources/pids", "add")]
        assert all("changing" in each["plugin"] for each in seen["spec_changes"])
        assert daemon.must(daemon.orlop("start", "-a", "box")).split() == ["hello", "77"]
        daemon.must(daemon.orlop("rm", "box"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ulimit", "files=1"), "there is no limit"),
        (("--sysctl", "vm.swappiness=1"), "the whole machine's"),
        (("--cpus", "1", "--cpu-quota", "5000"), "contradict each other"),
        (("--security-opt", "label=disable"), "are known"),
        (("--security-opt", "apparmor=mine"), "AppArmor"),
        (("--device-read-bps", "/dev/null:1m"), "no block device"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    daemon: Daemon, image: str, options: tuple[str, ...], said: str
) -> None:
    done = daemon.orlop("run", "--rm", *options, "probe", "true")
    assert done.returncode
    assert said in done.stderr.decode()

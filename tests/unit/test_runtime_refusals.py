"""What a runtime refused, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop_plugins.oci.shim.explain import Failure, explain, missing


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('exec: "x": executable file not found in $PATH', "COMMAND_NOT_FOUND"),
        ('exec: "/x": stat /x: no such file or directory', "COMMAND_NOT_FOUND"),
        ("executable file `x` not found in $PATH: No such file or directory", "COMMAND_NOT_FOUND"),
        ('exec: "/x": permission denied', "COMMAND_NOT_EXECUTABLE"),
        ("open executable: Operation not permitted", "COMMAND_NOT_EXECUTABLE"),
        ('chdir to cwd ("/x") set in config.json failed: no such file or directory', "RUNTIME_FAILED"),
        ("error mounting: no such file or directory", "RUNTIME_FAILED"),
    ],
)
def test_what_runtimes_say_is_understood(said: str, reason: str) -> None:
    error = explain(Failure("create", 1, said), "OCI runtime create failed")
    assert (error.reason, error.message) == (reason, f"OCI runtime create failed: {said}")


RUNC = "runc create failed: unable to start container process: "
INIT = f"{RUNC}error during container init: "
LIMIT = "error setting rlimit type"
CGROUP = "error setting cgroup config for procHooks process: "
WRITE = 'failed to write "77": write /sys/fs/cgroup'


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (f"{INIT}mkdir /bin/busybox: not a directory", "the working directory, or something on the way"),
        (f'{INIT}error mounting "/etc" to rootfs at "/a": mount /etc:/a, flags: 0x5000: not a directory',
         "mount a file on a file"),
        (f'{INIT}error mounting "/etc" to rootfs at "/a": mkdir /r/a: read-only file system',
         "cannot be made in a read-only root"),
        (f'{INIT}error mounting "/x" to rootfs at "/a": stat /x: no such file or directory', "is not there"),
        ("mount `/x` to `a`: No such file or directory", "is not there"),
        (f"{INIT}error setting rlimits for ready process: {LIMIT} 7: operation not permitted",
         "the limit nofile cannot be raised so far on this machine; /proc/sys/fs/nr_open is the most"),
        (f"{INIT}{LIMIT} 8: operation not permitted", "the limit memlock cannot be raised"),
        (f"{INIT}open /proc/sys/net/foo/bar: no such file or directory", "no setting net.foo.bar"),
        (f"{INIT}write /proc/sys/net/core/somaxconn: invalid argument",
         "does not take this value of net.core.somaxconn"),
        ("runc create failed: string SCMP_ACT_FOO is not a valid action for seccomp", "seccomp profile"),
        ("runc create failed: invalid configuration: cannot use unified on cgroup v1", "has version 1"),
        (f"{RUNC}unable to apply cgroup configuration: {WRITE}/cpuset.cpus: numerical result out of range",
         "no such processors"),
        (f"{INIT}{CGROUP}cannot set hugetlb limit: container could not join or create cgroup",
         "size of huge pages"),
        (f"{INIT}{CGROUP}{WRITE}/memory/x/memory.limit_in_bytes: invalid argument",
         "does not take this limit"),
        ('failed to write "7": write /sys/fs/cgroup/memory/x/memory.limit_in_bytes: device or resource busy',
         "uses more than that already"),
        (f"{INIT}error running hook #0: error running hook: exit status 1", "a hook of the container's spec"),
        ("container with given ID already exists", "'delete' removes it"),
        ('runc: chdir to cwd ("/x") set in config.json failed: permission denied', "may not enter"),
        ("criu failed: type NOTIFY errno 0", "criu check"),
        ("something that nobody has seen before", "all that it said are in the shim's log"),
    ],
)  # fmt: skip
def test_what_runtimes_refuse_comes_with_what_to_do(said: str, hint: str) -> None:
    assert hint in explain(Failure("create", 1, said), "OCI runtime create failed").hint


def test_a_long_complaint_is_not_looked_through_for_ever() -> None:
    said = 'exec: "/' + "creating mountpoint " * 5000 + '": stat: file name too long'
    assert "create" in explain(Failure("create", 1, said), "OCI runtime create failed").message


def test_a_runtime_that_says_nothing_is_told_by_its_exit_code() -> None:
    assert "'create' ended with code 3 and said nothing" in explain(Failure("create", 3, ""), "x").message


def test_a_missing_runtime_is_told_by_how_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    assert "apt install crun" in missing("crun").hint
    assert "mend the path" in missing(str(tmp_path / "gone")).hint
    assert "cannot be executed" in missing(str(tmp_path / "text")).hint

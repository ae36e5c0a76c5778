"""What a runtime's complaint means for the person who gets it: the error, and what to do about it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

from orlopd.plugin.errors import FailedPrecondition, NotFound, OrlopError

log = logging.getLogger(__name__)

# How the runtimes say that a program is not there, or may not be executed: runc's "exec: NAME: …", crun's
# own.
_NOT_FOUND = re.compile(
    r"executable file [`'\"\w./-]* ?not found"
    r'|exec:? "[^"]*": (?:stat [^:]*: )?no such file or directory'
    r"|exec [^:]+: no such file or directory"
    r"|executable file `[^`]*` not found"
)
_NOT_EXECUTABLE = re.compile(
    r'exec:? "[^"]*":? (?:permission denied|is a directory)'
    r"|exec [^:]+: (?:permission denied|exec format error|is a directory)"
    r"|exec format error"
    r"|open executable: (?:permission denied|operation not permitted)"
    r"|executable file `[^`]*`.*permission denied",
    re.IGNORECASE,
)


def _rlimit(found: re.Match[str]) -> str:
    import resource  # of no use to a shim without this failure

    names = {
        str(getattr(resource, name)): name.removeprefix("RLIMIT_").lower()
        for name in dir(resource)
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
    }
    name = names.get(found[1] or "", "that was asked for")
    most = "; /proc/sys/fs/nr_open is the most" if name == "nofile" else ""
    return f"the limit {name} cannot be raised so far on this machine{most}"


def _setting(found: re.Match[str]) -> str:
    name = found[1].replace("/", ".")
    if "no such file" in found[0].lower():
        return f"this kernel has no setting {name}, or none for each container: sysctl {name}"
    return f"the kernel does not take this value of {name}"


_MOUNT = r"(?:error mounting|mount `|mkdirat|creat(?:e|ing) .{0,200}?mount ?point).*"
_END = 400  # what a container names can be long, and these patterns take their time with that
# The first that fits is told; the order goes from the particular to the general.
_HINTS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"criu", "checkpoints need CRIU, and a kernel for it: 'criu check' says what is missing"),
    (
        _MOUNT + r"read-only file system",
        "the place to mount at is not there, and cannot be made in a read-only root: make it in the image",
    ),
    (
        _MOUNT + r"not a directory",
        "one is a file and the other a directory: mount a file on a file, a directory on a directory",
    ),
    (
        _MOUNT + r"no such (?:file|device)",
        "what is to be mounted is not there, or this kernel cannot mount it",
    ),
    (_MOUNT + r"invalid argument", "its filesystem does not know one of the mount's options"),
    (
        _MOUNT + r"(?:not permitted|permission denied)",
        "the container's rights do not go as far as this mount",
    ),
    (r"read-only file system", "the container's root is read-only, and something had to be made in it"),
    (r"rlimit(?: type (\d+))?[^:]*: (?:operation not permitted|invalid argument)", _rlimit),
    (r"/proc/sys/([\w./-]+)`?: [\w ]+", _setting),
    (
        r"seccomp|SCMP_",
        "the seccomp profile is not one that the runtime understands: mend the file that was given",
    ),
    (r"apparmor", "the AppArmor profile is not loaded: see aa-status, and load it with apparmor_parser"),
    (
        r"unified on cgroup v1|unified.*cgroup",
        "--cgroup-conf is for version 2 of control groups, and this machine has version 1",
    ),
    (r"cpuset\.(?:cpus|mems)", "this machine has no such processors or memory nodes: lscpu lists them"),
    (
        r"hugetlb",
        "this machine has no such size of huge pages (ls /sys/kernel/mm/hugepages), or does not limit them",
    ),
    (
        r"cgroup.*device or resource busy|unable to set memory limit.*current usage",
        "the container uses more than that already: ask for more, or stop it first",
    ),
    (
        r"cgroup.*(?:no space left|cannot allocate)",
        "there are too many control groups, or one that an empty cpuset keeps from having processes",
    ),
    (
        r"cgroup.*(?:invalid argument|out of range)|failed to write.*(?:invalid argument|out of range)",
        "the kernel does not take this limit: its file of control groups is named above",
    ),
    (
        r"cgroup.*(?:no such file|not mounted|mountpoint|read-only)",
        "control groups are not mounted, or not writable for the daemon: see /proc/self/cgroup",
    ),
    (
        r"namespace.*(?:no such file|stat .*/proc/\d+/ns)",
        "a namespace to be joined is gone: the container or process that had it has ended",
    ),
    (
        r"(?:unshare|clone|fork/exec).*(?:no space left|not permitted|invalid argument)",
        "the kernel allows no more namespaces: see /proc/sys/user/max_user_namespaces and its siblings",
    ),
    (
        r"blkio.*weight_device.*not supported",
        "the device's scheduler knows no weights, as bfq does: cat /sys/block/DEVICE/queue/scheduler",
    ),
    (r"(?<!proc)hook", "a hook of the container's spec failed: its program is named above"),
    (
        r"already exists",
        "a container of this id is left with the runtime: its 'list' shows it, 'delete' removes it",
    ),
    (r"no space left on device", "a disk is full: df -h, df -i"),
    (r"resource temporarily unavailable|cannot allocate memory", "a limit of processes or memory was met"),
    (
        r"(?:chdir|cwd).*permission denied",
        "the user that the process runs as may not enter its working directory",
    ),
    (r"chdir.*no such file", "the container's filesystem has no such working directory"),
    (
        r"(?:mkdir|chdir|cwd).*not a directory",
        "the working directory, or something on the way to it, is a file in the container's filesystem",
    ),
)
_ELSE = "the runtime's command and all that it said are in the shim's log"


class Failure(Exception):
    """A command failed; ``message`` is its last error, ``line`` its words, ``told`` all that it logged."""

    def __init__(
        self, command: str, code: int, message: str, line: tuple[str, ...] = (), told: str = ""
    ) -> None:
        super().__init__(command, code, message)
        self.command = command
        self.code = code
        self.message = message
        self.line = line
        self.told = told


def missing(binary: str) -> NotFound:
    """The error for a runtime that is not installed."""
    if "/" not in binary:
        where = "not found in $PATH"
        hint = f"install it (apt install {binary}) or set its path in the runtime's config section"
    elif Path(binary).exists():
        where = "is not there, or no program"
        hint = "that file cannot be executed: name the program of an OCI runtime, as /usr/bin/runc is"
    else:
        where = "is not there, or no program"
        hint = "mend the path, or install it: the program of an OCI runtime is wanted, as /usr/bin/runc is"
    return NotFound(
        f"OCI runtime {binary!r} {where}",
        reason="RUNTIME_NOT_FOUND",
        resource=f"runtime {binary}",
        hint=hint,
    )


def explain(failure: Failure, what: str, program: str = "") -> OrlopError:
    """A failed command as an error of the house; what the runtime was told and said is logged.

    :param what: begins the message, as containerd's shim has it: ``OCI runtime create failed``
    :param program: the program that the process was to run
    """
    if failure.line:
        command = " ".join(failure.line)
        log.error("%r ended with code %d and said:\n%s", command, failure.code, failure.told or "nothing")
    said = failure.message or f"{failure.command!r} ended with code {failure.code} and said nothing"
    reason = reason_of(said)
    name = f" {program!r}" if program else ""
    if reason == "COMMAND_NOT_EXECUTABLE":
        hint = f"the program{name} cannot be executed in the container"
    elif reason == "COMMAND_NOT_FOUND":
        hint = f"the container's filesystem has no program{name}"
    else:
        hint = _hint(said)
    return FailedPrecondition(f"{what}: {said}", reason=reason, hint=hint)


def reason_of(said: str) -> str:
    """What kind of failure it is, as an error's reason."""
    said = _ends(said)
    if _NOT_EXECUTABLE.search(said):
        return "COMMAND_NOT_EXECUTABLE"
    return "COMMAND_NOT_FOUND" if _NOT_FOUND.search(said) else "RUNTIME_FAILED"


def _ends(said: str) -> str:
    return said if len(said) <= 2 * _END else f"{said[:_END]} {said[-_END:]}"


def _hint(said: str) -> str:
    said = _ends(said)
    for pattern, hint in _HINTS:
        if found := re.search(pattern, said, re.IGNORECASE | re.DOTALL):
            return hint if isinstance(hint, str) else hint(found)
    return _ELSE

"""What keeps a container's processes from what is not theirs, as far as a request may change it."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound

from .kernel import kernel_at_least
from .machine import Machine
from .types import Rlimit, Seccomp

UNCONFINED = "unconfined"
DEFAULT_APPARMOR = "orlop-default"
"""The AppArmor profile of containers that name none, where it is loaded."""

_RLIMITS = frozenset(
    (
        *("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC"),
        *("RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK"),
    )
)
_NO_LIMIT = 2**64 - 1
_SYSCTL = re.compile(r"[a-z0-9][a-z0-9_-]*(?:[./][A-Za-z0-9_*:@-]+)+")
_IPC = re.compile(r"kernel\.(?:shm\w+|msg\w+|sem|shm_rmid_forced)|fs\.mqueue\..+")
_UTS = frozenset(("kernel.domainname",))
_MOST_PROFILE = 1 << 20
# Docker's and the OCI's names of this machine's architecture in the filters of a profile.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x",
                  "riscv64": "riscv64"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SpecRlimit:
    """A limit of getrlimit(2); -1 is none."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Security:
    """See ``orlop.engine.v1.Security`` for the meaning of each."""

    no_new_privileges: bool = False
    seccomp: str = ""
    apparmor: str = ""
    unmask: bool = False
    privileged: bool = False


def build_rlimits(default: Sequence[Rlimit], asked: Sequence[SpecRlimit]) -> list[Rlimit]:
    """The defaults, and over them what was asked for. :raises InvalidArgument: there is no such limit"""
    limits = {each["type"]: each for each in default}
    for each in asked:
        name = each.name.upper().removeprefix("RLIMIT_")
        if name not in _RLIMITS:
            raise InvalidArgument(
                f"there is no limit {each.name[:40]!r}: getrlimit(2) lists them", reason="UNKNOWN_RLIMIT"
            )
        if min(each.soft, each.hard) < -1:
            raise InvalidArgument(f"limit {each.name} is negative; -1 is none", reason="BAD_LIMIT")
        soft, hard = (_NO_LIMIT if value == -1 else value for value in (each.soft, each.hard))
        if soft > hard:
            raise InvalidArgument(
                f"limit {each.name} begins at {each.soft}, above the {each.hard} that it may be raised to",
                reason="BAD_LIMIT",
            )
        if name == "NOFILE" and hard > (most := Machine().most_files):
            raise InvalidArgument(
                f"limit {each.name} of {each.hard}: this machine allows {most} at most",
                reason="BAD_LIMIT",
                hint="raise the kernel setting fs.nr_open of the machine, or ask for less",
            )
        limits[f"RLIMIT_{name}"] = Rlimit(type=f"RLIMIT_{name}", soft=soft, hard=hard)
    return list(limits.values())


def check_sysctls(asked: Mapping[str, str], *, own_network: bool, own_ipc: bool) -> dict[str, str]:
    """Kernel settings that belong to the container's namespaces alone.

    A value with ``+`` or ``=`` is refused: tools that pass settings on join them by these (CVE-2022-0811).

    :raises InvalidArgument: a setting of the whole machine, or a malformed one
    """
    for key, value in asked.items():
        if not _SYSCTL.fullmatch(key) or len(key) > 200:
            raise InvalidArgument(f"malformed kernel setting {key[:80]!r}", reason="BAD_SYSCTL")
        if (
            not value
            or len(value) > 4096
            or not value.isascii()
            or re.search(r"[+=\x00-\x08\x0a-\x1f]", value)
        ):
            raise InvalidArgument(
                f"kernel setting {key}: the value {value[:80]!r} is refused", reason="BAD_SYSCTL"
            )
        name = key.replace("/", ".")
        if name.startswith("net."):
            if not own_network:
                raise InvalidArgument(f"kernel setting {key} would be the machine's", reason="BAD_SYSCTL",
                                      hint="give the container a network of its own")  # fmt: skip
        elif _IPC.fullmatch(name):
            if not own_ipc:
                raise InvalidArgument(f"kernel setting {key} would be the machine's", reason="BAD_SYSCTL",
                                      hint="give the container IPC of its own")  # fmt: skip
        elif name not in _UTS:
            raise InvalidArgument(
                f"kernel setting {key} is the whole machine's: net., kernel.shm*, kernel.msg*, kernel.sem, "
                "fs.mqueue. and kernel.domainname are a container's own",
                reason="BAD_SYSCTL",
            )
    return dict(asked)


def apparmor_profile(
    asked: str,
    *,
    enabled: Path = Path("/sys/module/apparmor/parameters/enabled"),
    profiles: Path = Path("/sys/kernel/security/apparmor/profiles"),
) -> str:
    """The AppArmor profile of a container, "" for none.

    :raises FailedPrecondition: one was named, and the kernel has no AppArmor
    :raises NotFound: the one that was named is not loaded
    """
    try:
        on = enabled.read_text().startswith("Y")
    except OSError:
        on = False
    if not on:
        if asked not in ("", UNCONFINED):
            raise FailedPrecondition(
                f"AppArmor profile {asked[:80]!r} cannot be used: this kernel's AppArmor is off",
                reason="NO_APPARMOR",
                hint="boot with security=apparmor, or leave the profile away",
            )
        return ""
    if asked == UNCONFINED:
        return UNCONFINED
    try:
        loaded = {line.rpartition(" (")[0] for line in profiles.read_text().splitlines()}
    except OSError:
        loaded = set[str]()
    if not asked:
        return DEFAULT_APPARMOR if DEFAULT_APPARMOR in loaded else ""
    if asked not in loaded:
        raise NotFound(
            f"AppArmor profile {asked[:80]!r} is not loaded",
            reason="APPARMOR_PROFILE_NOT_FOUND",
            hint="load it with: apparmor_parser -r FILE",
        )
    return asked


def parse_seccomp(text: str, capabilities: Collection[str], machine: str = "", kernel: str = "") -> Seccomp:
    """A profile as JSON, in the OCI's form or in Docker's, whose rules may depend on capabilities,
    architecture and kernel.

    :raises InvalidArgument: it is neither
    """
    try:
        profile: Any = json.loads(text) if len(text) <= _MOST_PROFILE else None
    except (ValueError, RecursionError):
        profile = None
    if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):  # pyright: ignore[reportUnknownMemberType]
        raise _bad_profile("want a JSON object with a defaultAction")
    found = cast("dict[str, Any]", profile)
    machine, kernel = machine or platform.machine(), kernel or platform.release()
    built: dict[str, Any] = {
        "defaultAction": found["defaultAction"],
        "architectures": _architectures(found, machine),
        "syscalls": [],
    }
    for key in ("defaultErrnoRet", "flags"):
        if key in found:
            built[key] = found[key]
    rules = found.get("syscalls", [])
    if not isinstance(rules, list):
        raise _bad_profile("syscalls is no list")
    for rule in cast("list[Any]", rules):
        if not isinstance(rule, dict):
            raise _bad_profile("a rule of syscalls is no object")
        one = cast("dict[str, Any]", rule)
        if not _applies(one, capabilities, machine, kernel):
            continue
        names = one.get("names") or ([one["name"]] if one.get("name") else [])
        if not names or not isinstance(one.get("action"), str):
            raise _bad_profile("a rule of syscalls lacks names or an action")
        kept: dict[str, Any] = {"names": names, "action": one["action"]}
        for key in ("errnoRet", "args"):
            if one.get(key) is not None:
                kept[key] = one[key]
        built["syscalls"].append(kept)
    return cast("Seccomp", built)


def _architectures(profile: dict[str, Any], machine: str) -> list[str]:
    for entry in profile.get("archMap") or ():
        own = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}.get(
            machine, f"SCMP_ARCH_{machine.upper()}"
        )
        if isinstance(entry, dict) and cast("dict[str, Any]", entry).get("architecture") == own:
            return [own, *(cast("dict[str, Any]", entry).get("subArchitectures") or ())]
    given: object = profile.get("architectures") or []
    if not isinstance(given, list):
        raise _bad_profile("architectures is no list")
    return cast("list[str]", given)


def _applies(rule: dict[str, Any], capabilities: Collection[str], machine: str, kernel: str) -> bool:
    wanted, refused = _object(rule.get("includes")), _object(rule.get("excludes"))
    architecture = _ARCHITECTURES.get(machine, machine)
    if any(each in capabilities for each in refused.get("caps") or ()):
        return False
    if architecture in (refused.get("arches") or ()):
        return False
    if refused.get("minKernel") and kernel_at_least(kernel, str(refused["minKernel"])):
        return False
    if not all(each in capabilities for each in wanted.get("caps") or ()):
        return False
    if wanted.get("arches") and architecture not in wanted["arches"]:
        return False
    return not wanted.get("minKernel") or kernel_at_least(kernel, str(wanted["minKernel"]))


def _object(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise _bad_profile("includes or excludes is no object")
    return cast("dict[str, Any]", value or {})


def _bad_profile(why: str) -> InvalidArgument:
    return InvalidArgument(f"malformed seccomp profile: {why}", reason="BAD_SECCOMP_PROFILE")

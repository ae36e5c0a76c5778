"""Platforms: this machine's, as people write them, and which image suits which.

Spelling and matching follow the rules containerd's clients use, so that both choose the same image
out of an index.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Platform

T = TypeVar("T")
_VERSIONED = re.compile(r"([A-Za-z]+)\(([A-Za-z0-9._+-]{1,64})\)(/.*)?")

_ARCHITECTURES = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv8l": ("arm", "v7"),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
}
_KNOWN_ARCHITECTURES = {
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle",
    "ppc64", "ppc64le", "riscv64", "s390x", "wasm",
}  # fmt: skip
_KNOWN_SYSTEMS = {
    "aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux",
    "netbsd", "openbsd", "plan9", "solaris", "wasip1", "windows",
}  # fmt: skip
_DEFAULT_VARIANTS = {("amd64", "v1"): "", ("arm64", "8"): "", ("arm64", "v8"): "", ("arm", ""): "v7"}


def normalize(platform: Platform) -> Platform:
    """The one spelling of a platform: Go's words, aliases resolved, a variant that says nothing left out."""
    system = platform.os.lower()
    system = {"macos": "darwin", "": sys.platform}.get(system, system)
    architecture, implied = _ARCHITECTURES.get(
        platform.architecture.lower(), (platform.architecture.lower(), "")
    )
    variant = platform.variant.lower() or implied
    if architecture == "arm" and variant.isdigit():
        variant = f"v{variant}"
    variant = _DEFAULT_VARIANTS.get((architecture, variant), variant)
    return Platform(system, architecture, variant, platform.os_version)


def current() -> Platform:
    """What this machine runs."""
    machine = os.uname()
    return normalize(Platform(machine.sysname.lower(), machine.machine))


def parse(text: str) -> Platform:
    """Read ``os/arch[/variant]``, or one of the first two with the other taken from this machine.

    An operating system may have its version in parentheses, as containerd's clients write it.

    :raises InvalidArgument: anything else
    """
    if match := _VERSIONED.fullmatch(text.strip()):
        return replace(parse(f"{match[1]}{match[3]}"), os_version=match[2])
    parts = text.strip().split("/")
    if not all(part and part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in parts):
        raise _malformed(text)
    here = current()
    match parts:
        case [single]:
            if single.lower() in _KNOWN_SYSTEMS or single.lower() == "macos":
                return normalize(Platform(single, here.architecture, here.variant))
            guess = normalize(Platform(here.os, single))
            if guess.architecture not in _KNOWN_ARCHITECTURES:
                raise _malformed(text)
            return guess
        case [system, architecture]:
            return normalize(Platform(system, architecture))
        case [system, architecture, variant]:
            return normalize(Platform(system, architecture, variant))
        case _:
            raise _malformed(text)


def acceptable(want: Platform) -> Sequence[Platform]:
    """What a machine that is ``want`` can run, the best first."""
    want = normalize(want)
    listed = [want]
    if want.architecture == "amd64":
        listed += [Platform(want.os, "amd64", variant) for variant in _below(want.variant, 1)]
        listed.append(Platform(want.os, "386"))
    elif want.architecture == "arm":
        listed += [Platform(want.os, "arm", variant) for variant in _below(want.variant, 5)]
    elif want.architecture == "arm64":
        if want.variant:
            listed.append(Platform(want.os, "arm64"))
        listed += [Platform(want.os, "arm", f"v{level}") for level in (8, 7, 6, 5)]
    return [normalize(each) for each in listed]


def match(want: Platform, have: Platform) -> int | None:
    """How well ``have`` serves ``want``: 0 is best, None is not at all."""
    have = normalize(have)
    if not _versions_agree(want, have):
        return None
    for rank, platform in enumerate(acceptable(want)):
        if (platform.os, platform.architecture, platform.variant) == (
            have.os,
            have.architecture,
            have.variant,
        ):
            return rank
    return None


def _versions_agree(want: Platform, have: Platform) -> bool:
    """Whether a system of one version runs what was made for another; one that is not told may be any.

    Windows wants the same build, whatever the revision; of other systems a version has no order.
    """
    if not want.os_version or not have.os_version:
        return True
    if have.os == "windows":
        return want.os_version.split(".")[:3] == have.os_version.split(".")[:3]
    return want.os_version == have.os_version


def ranked(want: Platform, candidates: Iterable[tuple[Platform | None, T]]) -> list[T]:
    """Those candidates that serve ``want``, the best first.

    One that does not say its platform may serve, and comes after those that do.
    """
    scored: list[tuple[int, bool, int, T]] = []
    for position, (platform, candidate) in enumerate(candidates):
        rank = sys.maxsize if platform is None else match(want, platform)
        if rank is not None:
            other = bool(want.os_version and platform and platform.os_version != want.os_version)
            scored.append((rank, other, position, candidate))
    return [each[-1] for each in sorted(scored, key=lambda each: each[:3])]


def _below(variant: str, lowest: int) -> list[str]:
    digits = variant.removeprefix("v")
    if not digits.isdigit():
        return []
    return [f"v{level}" for level in range(min(int(digits), 16) - 1, lowest - 1, -1)]


def _malformed(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"malformed platform {text[:80]!r}",
        reason="MALFORMED_PLATFORM",
        hint="want OS/ARCHITECTURE[/VARIANT], for example linux/arm64/v8",
    )

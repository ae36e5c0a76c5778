"""The default profile: its text, and loading it into the kernel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import anyio

from orlopd.plugin.errors import FailedPrecondition

NAME = "orlop-default"
_DEADLINE = 20.0

# apparmor.d(5). A container may do what its capabilities, its seccomp filter and its mounts let it, except
# reach into the kernel through /proc and /sys, mount, or look into processes that are not its own.
TEXT = f"""\
#include <tunables/global>

profile {NAME} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>

  file,
  network,
  capability,
  umount,

  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer={NAME},
  ptrace (trace,read,tracedby,readby) peer={NAME},

  deny mount,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,
  deny @{{PROC}}/kmem rwklx,
  deny @{{PROC}}/mem rwklx,
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  deny @{{PROC}}/sys/[^kn]** wklx,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} wklx,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"""


class Profile:
    """The default profile in this machine's kernel.

    :param enabled: the file in which the kernel says "Y"
    :param profiles: the file that lists what is loaded
    :param programs: where apparmor_parser is looked for
    """

    def __init__(
        self,
        enabled: Path = Path("/sys/module/apparmor/parameters/enabled"),
        profiles: Path = Path("/sys/kernel/security/apparmor/profiles"),
        programs: str = "/sbin:/usr/sbin:/bin:/usr/bin",
    ) -> None:
        self._enabled = enabled
        self._programs = programs
        self._profiles = profiles
        self._loading = anyio.Lock()

    async def loaded(self) -> bool:
        """Whether containers can have it; it is loaded where it is not yet.

        :returns: False where AppArmor is off, or where there is no apparmor_parser, as containerd has it
        :raises FailedPrecondition: it cannot be loaded
        """
        async with self._loading:
            if not _first(self._enabled).startswith("Y"):
                return False
            if any(line.startswith(f"{NAME} (") for line in _lines(self._profiles)):
                return True
            parser = shutil.which("apparmor_parser", path=self._programs)
            if parser is None:
                return False
            await _load(parser)
            return True


async def _load(parser: str) -> None:
    try:
        with anyio.fail_after(_DEADLINE):
            done = await anyio.run_process(
                [parser, "--replace", "--skip-cache"],
                input=TEXT.encode(),
                stderr=subprocess.STDOUT,
                check=False,
            )
    except (OSError, TimeoutError) as error:
        raise _failed(str(error) or "it takes too long") from error
    if done.returncode:
        raise _failed(done.stdout.decode(errors="replace").strip()[-500:])


def _failed(why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the AppArmor profile {NAME} cannot be loaded: {why}",
        reason="APPARMOR_PROFILE_NOT_LOADED",
        hint="run without one: --security-opt apparmor=unconfined",
    )


def _first(path: Path) -> str:
    return next(iter(_lines(path)), "")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

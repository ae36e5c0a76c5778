"""Linux capabilities by name: the default set, and what a request adds and takes away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from orlopd.plugin.errors import InvalidArgument

_IN_ORDER = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL
SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
_DEFAULT = """
CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL
AUDIT_WRITE
"""

# In the kernel's order (linux/capability.h): the position is the bit.
CAPABILITIES: tuple[str, ...] = tuple("CAP_" + name for name in _IN_ORDER.split())

# What containerd and Docker give a container that asks for nothing.
DEFAULT_CAPABILITIES: tuple[str, ...] = tuple("CAP_" + name for name in _DEFAULT.split())

ALL = "ALL"


@cache
def own_capabilities() -> frozenset[str]:
    """The capabilities this daemon may hand on: its bounding set."""
    bits = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            bits = int(line.split()[1], 16)
    return frozenset(name for bit, name in enumerate(CAPABILITIES) if bits >> bit & 1)


def canonical(name: str) -> str:
    """``net_admin``, ``NET_ADMIN`` or ``CAP_NET_ADMIN`` as the kernel's headers spell it; ALL as it is.

    :raises InvalidArgument: no such capability
    """
    upper = name.upper()
    if upper == ALL:
        return ALL
    full = upper if upper.startswith("CAP_") else "CAP_" + upper
    if full not in CAPABILITIES:
        raise InvalidArgument(
            f"there is no capability {name!r}",
            reason="UNKNOWN_CAPABILITY",
            hint="capabilities(7) lists them; NET_ADMIN and CAP_NET_ADMIN are the same",
        )
    return full


def adjust_capabilities(
    add: Sequence[str],
    drop: Sequence[str],
    *,
    base: Iterable[str] = DEFAULT_CAPABILITIES,
    available: frozenset[str] | None = None,
) -> list[str]:
    """The capabilities of a container, in the kernel's order.

    What is dropped by name is gone even if ALL is added, what is added by name is there even if ALL
    is dropped: the more exact wish wins, and of two alike, the drop.

    :param available: what may be given at all; this daemon's own when None
    :raises InvalidArgument: a name that is no capability
    """
    available = own_capabilities() if available is None else available
    added, dropped = [canonical(name) for name in add], [canonical(name) for name in drop]
    chosen: set[str] = set() if ALL in dropped else set(base)
    if ALL in added:
        chosen |= available
    chosen |= {name for name in added if name != ALL}
    chosen -= set(dropped)
    # Without this a daemon that lacks one of the default set itself could start no container.
    return [name for name in CAPABILITIES if name in chosen and (name in available or name in added)]

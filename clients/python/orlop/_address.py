"""Where the daemon is, and why it cannot be reached when it cannot."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from pathlib import Path

from orlop.errors import CannotConnect, InvalidArgument

ENVIRONMENT = "ORLOP_ADDRESS"
NAMESPACE_ENVIRONMENT = "ORLOP_NAMESPACE"
DEFAULT_NAMESPACE = "default"
SYSTEM_SOCKET = "/run/orlop/orlop.sock"
RUN_USER = Path("/run/user")
LONGEST_SOCKET_PATH = 107


def default_address() -> str:
    """ORLOP_ADDRESS; else the system's socket for root and the user's own for everybody else."""
    if given := os.environ.get(ENVIRONMENT):
        return given
    if os.geteuid() == 0:
        return f"unix://{SYSTEM_SOCKET}"
    return f"unix://{_runtime_dir()}/orlop/orlop.sock"


def _runtime_dir() -> Path:
    """Where a user's daemon keeps its socket. orlopd has the same rule in orlopd.config.paths."""
    value = os.environ.get("XDG_RUNTIME_DIR", "")
    if value.startswith("/"):
        return Path(value)
    login = RUN_USER / str(os.geteuid())
    makeshift = Path(f"/tmp/orlop-{os.geteuid()}")
    try:
        found = login.lstat()
    except OSError:
        return makeshift
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return login if mine else makeshift


def default_namespace() -> str:
    """ORLOP_NAMESPACE, else "default"."""
    return os.environ.get(NAMESPACE_ENVIRONMENT) or DEFAULT_NAMESPACE


def socket_path(address: str) -> str | None:
    """The path of a unix socket's address, None for another kind of address.

    "unix:///run/x.sock", "unix:/run/x.sock", "unix:x.sock" and "/run/x.sock" are paths.
    """
    if address.startswith("unix://"):
        return address.removeprefix("unix://")
    if address.startswith("unix:"):
        return address.removeprefix("unix:")
    return address if address.startswith("/") else None


def grpc_target(address: str) -> str:
    """The address as gRPC spells it.

    :raises InvalidArgument: it is no address, or a socket's path is longer than the kernel takes
    """
    path = socket_path(address)
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    tcp = path is None and "/" not in host and bool(host and colon) and port.isdecimal()
    if not tcp and (not path or "\0" in path):
        raise InvalidArgument(
            f"malformed address {address!r}", hint="an address is unix:///PATH, or HOST:PORT"
        )
    if path is None:
        return f"{host}:{port}"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise InvalidArgument(
            f"the path of the socket {path} has more than {LONGEST_SOCKET_PATH} bytes",
            hint="the kernel takes no longer ones: choose a shorter path for the daemon's state",
        )
    return f"unix:{path}"


def diagnose(address: str) -> CannotConnect | None:
    """Why nobody answers at ``address``; None when somebody does, or when this cannot tell."""
    path = socket_path(address)
    if path is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return None  # its backlog is full: somebody is there
        except OSError as error:
            return _unreachable(path, error)
    return None


def _unreachable(path: str, error: OSError) -> CannotConnect:
    cannot = f"cannot reach orlopd at {path}"
    start = "start it with `orlopd`, or say where it is with --address or ORLOP_ADDRESS"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return CannotConnect(f"{cannot}: no such file", reason="SOCKET_MISSING", hint=start)
    if error.errno == errno.ECONNREFUSED:
        return CannotConnect(
            f"{cannot}: the socket is there, but nobody listens", reason="SOCKET_REFUSED", hint=start
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return CannotConnect(
            f"{cannot}: permission denied{_owner(path)}",
            code="PERMISSION_DENIED",
            reason="SOCKET_PERMISSION",
            hint=_remedy(path),
        )
    return CannotConnect(f"{cannot}: {os.strerror(error.errno or 0)}", reason="SOCKET_ERROR")


def _owner(path: str) -> str:
    """Who may use a socket, as far as this user can see."""
    try:
        status = Path(path).stat()
    except OSError:
        return f" (the directory {Path(path).parent} cannot be entered)"
    return (
        f" (the socket belongs to group {group_name(status.st_gid)}, mode {stat.S_IMODE(status.st_mode):04o})"
    )


def _remedy(path: str) -> str:
    try:
        group = group_name(Path(path).stat().st_gid)
    except OSError:
        return "use root, or a user that may enter it"
    return "use root" if group == "root" else f"join the group {group}, or use root"


def group_name(gid: int) -> str:
    """A group's name, its number when it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

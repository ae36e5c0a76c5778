"""The last changes to an OCI runtime spec: what this machine and this runtime cannot do otherwise."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument

_CAP_SYS_RESOURCE = 24
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def prepare(spec: bytes, *, bundle: str, newest: str) -> tuple[bytes, dict[str, Any]]:
    """The spec to write into a bundle, and the same taken apart.

    :param bundle: an existing bundle whose ``config.json`` is used where ``spec`` is empty, and whose
        relative paths are meant; "" for none
    :param newest: the newest specification that the runtime knows, "" for unknown
    :raises InvalidArgument: it is no spec
    """
    if not spec and bundle:
        try:
            spec = (Path(bundle) / "config.json").read_bytes()
        except OSError as error:
            raise InvalidArgument(f"cannot read the bundle {bundle!r}: {error.strerror}") from error
    try:
        config = json.loads(spec)
    except ValueError as error:
        raise InvalidArgument(f"malformed OCI runtime spec: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgument("malformed OCI runtime spec: want a JSON object")
    if bundle:
        _make_absolute(config, Path(bundle))
    _limit_version(config, newest)
    _limit_oom_score(config)
    return json.dumps(config).encode(), config


def place(config: dict[str, Any], namespace: str, id: str, *, parent: str, systemd: bool) -> bool:
    """Put a container's control group where the operator wants it; whether the spec has changed.

    Only ``/NAMESPACE/ID`` is moved, which a client means as "the usual place". A path of its own stays.

    :param parent: a path, or where systemd makes the groups a slice; "" for the top and for system.slice
    :param systemd: whether the runtime has systemd make the group: the path is then ``SLICE:PREFIX:NAME``
    """
    linux = config.get("linux")
    if not isinstance(linux, dict) or linux.get("cgroupsPath") != f"/{namespace}/{id}":
        return False
    if systemd:
        last = parent.rpartition("/")[2]
        linux["cgroupsPath"] = f"{last if last.endswith('.slice') else 'system.slice'}:orlop:{namespace}-{id}"
    elif parent.strip("/"):
        linux["cgroupsPath"] = f"/{parent.strip('/')}/{namespace}/{id}"
    else:
        return False
    return True


def remapped_root(config: dict[str, Any]) -> tuple[int, int] | None:
    """The host's ids for the container's root and its group where the spec has a user namespace."""
    linux = config.get("linux") or {}
    uid, gid = (_remapped(linux.get(key) or ()) for key in ("uidMappings", "gidMappings"))
    return None if gid is None else (uid or 0, gid)


def check_reachable(folder: Path, uid: int) -> None:
    """Whether a user of the machine can reach a folder through those above it.

    :raises FailedPrecondition: one of them is closed to others
    """
    for path in folder.parents:
        found = path.stat()
        if not (found.st_mode & 0o001 or (found.st_uid == uid and found.st_mode & 0o100)):
            raise FailedPrecondition(
                f"the root of a container in a user namespace, here user {uid}, cannot get through {path}",
                reason="FOLDER_CLOSED",
                resource=f"path {path}",
                hint=f"open it for passing through: chmod o+x {path}",
            )


def _remapped(mappings: Iterable[Any]) -> int | None:
    for mapping in mappings:
        if mapping.get("containerID") == 0:
            return int(mapping.get("hostID", 0))
    return None


@lru_cache(maxsize=16)
def newest_spec(binary: str, _changed: int) -> str:
    """The specification version that a runtime names in ``--version``; "" if it does not say. Blocks.

    :param _changed: the binary's time of change, so that an upgrade is noticed
    """
    try:
        done = subprocess.run(
            [binary, "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    for line in done.stdout.splitlines():
        if line.startswith("spec:"):
            return line.removeprefix("spec:").strip()
    return ""


def _limit_version(config: dict[str, Any], newest: str) -> None:
    # crun before 1.9 refuses a spec that is newer than what it knows, however small the difference.
    wanted, known = _VERSION.match(str(config.get("ociVersion", ""))), _VERSION.match(newest)
    if wanted and known and tuple(map(int, wanted.groups())) > tuple(map(int, known.groups())):
        config["ociVersion"] = known.group()


def _limit_oom_score(config: dict[str, Any]) -> None:
    process = config.get("process")
    if not isinstance(process, dict) or not isinstance(process.get("oomScoreAdj"), int):
        return
    try:
        ours = int(Path("/proc/self/oom_score_adj").read_text())
        status = Path("/proc/self/status").read_text()
    except (OSError, ValueError):
        return
    effective = next(
        (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0
    )
    if not effective >> _CAP_SYS_RESOURCE & 1:
        process["oomScoreAdj"] = max(process["oomScoreAdj"], ours)


def _make_absolute(config: dict[str, Any], bundle: Path) -> None:
    root = config.get("root")
    if isinstance(root, dict) and isinstance(root.get("path"), str):
        root["path"] = str(bundle / root["path"])
    for item in config.get("mounts") or []:
        binds = isinstance(item, dict) and {"bind", "rbind"} & set(item.get("options") or ())
        if binds and isinstance(item.get("source"), str):
            item["source"] = str(bundle / item["source"])

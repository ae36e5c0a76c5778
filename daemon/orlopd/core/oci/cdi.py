"""Devices by the Container Device Interface: found in folders of specifications, and put into a spec.

What a device does to a container is said by files that an administrator or a device's driver put there;
only a request can name one. Everything here blocks: it reads files.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import yaml

from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, NotFound

from .cdi_schema import CdiHook, CdiMount, CdiSpec, DeviceNode, Edits, is_class, is_device, is_vendor
from .devices import ALL, device_type
from .image import merge_env
from .types import Device, DeviceRule, Hook, IntelRdt, MountEntry, Spec

DEFAULT_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
ANNOTATION = "cdi.k8s.io/"
"""Annotations of a request that begin so name devices, as Kubernetes' device plugins do it."""

_MOST_BYTES = 4 << 20
_MOST_FILES = 1024


def parse_name(text: str) -> tuple[str, str]:
    """Kind and name of a qualified name, VENDOR/CLASS=NAME. :raises InvalidArgument: it is none"""
    kind, equals, name = text.partition("=")
    vendor, slash, cls = kind.partition("/")
    if not (equals and slash and is_vendor(vendor) and is_class(cls) and is_device(name)):
        raise InvalidArgument(
            f"{text[:200]!r} is no qualified name of a device: want VENDOR/CLASS=NAME, "
            "as in vendor.com/class=name",
            reason="BAD_DEVICE_NAME",
            hint="a device node is named by its path: /dev/fuse",
        )
    return kind, name


def annotated(annotations: Mapping[str, str]) -> list[str]:
    """The devices that a request's annotations name."""
    values = [value for key, value in sorted(annotations.items()) if key.startswith(ANNOTATION)]
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


@dataclass(frozen=True, slots=True)
class _Found:
    path: Path
    priority: int
    spec: CdiSpec


class Registry:
    """The specifications in some folders; of two that have a device, that of the later folder counts."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._errors: list[str] = []
        self._devices: dict[str, list[_Found]] = {}
        for priority, folder in enumerate(folders):
            for path in _files(folder):
                try:
                    spec = read_spec(path)
                except InvalidArgument as error:
                    self._errors.append(error.message)
                    continue
                for device in spec.devices:
                    key = f"{spec.kind}={device.name}"
                    self._devices.setdefault(key, []).append(_Found(path, priority, spec))

    def inject(self, names: Sequence[str], spec: Spec) -> None:
        """Put devices into a runtime spec, in this order.

        :raises InvalidArgument: a malformed name
        :raises NotFound: no specification has one; the message names those that could not be read
        :raises FailedPrecondition: two specifications have one, or its edits cannot be made here
        """
        whole: set[Path] = set()
        for name in dict.fromkeys(names):
            found = self._find(name)
            if found.path not in whole:  # what all devices of a file share comes once
                whole.add(found.path)
                apply(found.spec.containerEdits, spec, name)
            _, device = parse_name(name)
            apply(next(each.containerEdits for each in found.spec.devices if each.name == device), spec, name)
        # A mount on a directory would hide an earlier one below it.
        spec["mounts"].sort(key=lambda entry: entry["destination"].rstrip("/").count("/"))

    def _find(self, name: str) -> _Found:
        parse_name(name)
        having = self._devices.get(name, [])
        if not having:
            unread = f"; not read: {'; '.join(self._errors[:5])}" if self._errors else ""
            places = ", ".join(map(str, self._folders)) or "no folder"
            raise NotFound(
                f"CDI device {name!r} is in no specification in {places}{unread}",
                reason="CDI_DEVICE_NOT_FOUND",
                resource=f"device {name}",
                hint=f"there are: {', '.join(sorted(self._devices)[:10]) or 'none'}",
            )
        best = max(each.priority for each in having)
        winners = [each for each in having if each.priority == best]
        if len(winners) > 1:
            paths = ", ".join(str(each.path) for each in winners)
            raise FailedPrecondition(
                f"CDI device {name!r} is in conflict: {paths} all have it",
                reason="CDI_CONFLICT",
                resource=f"device {name}",
                hint="remove all of them but one",
            )
        return winners[0]


def read_spec(path: Path) -> CdiSpec:
    """A specification file, JSON or YAML by its ending. :raises InvalidArgument: it is malformed"""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}", reason="BAD_CDI_SPEC") from error
    if len(data) > _MOST_BYTES:
        raise InvalidArgument(f"{path}: longer than {_MOST_BYTES} bytes", reason="BAD_CDI_SPEC")
    try:
        value: Any = json.loads(data) if path.suffix == ".json" else yaml.safe_load(data)
        return CdiSpec.model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "top"
        raise InvalidArgument(f"{path}: {where}: {first['msg']}", reason="BAD_CDI_SPEC") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise InvalidArgument(f"{path}: {said}", reason="BAD_CDI_SPEC") from error


def apply(edits: Edits, spec: Spec, name: str) -> None:
    """Make one set of edits. :raises FailedPrecondition: a device node is not there"""
    process, linux = spec["process"], spec["linux"]
    process["env"] = merge_env(process["env"], edits.env)
    for node in edits.deviceNodes:
        device, rule = _node(node, spec, name)
        others = [each for each in linux.get("devices", []) if each["path"] != device["path"]]
        linux["devices"] = [*others, device]
        if rule is not None:
            linux["resources"]["devices"].append(rule)
    for item in edits.mounts:
        entry = _mount(item)
        spec["mounts"] = [
            *(each for each in spec["mounts"] if each["destination"] != entry["destination"]),
            entry,
        ]
    for item in edits.hooks:
        spec.setdefault("hooks", {}).setdefault(item.hookName, []).append(_hook(item))
    if edits.intelRdt is not None:
        given = edits.intelRdt.model_dump(exclude_defaults=True)
        linux["intelRdt"] = IntelRdt(**given)
    user = process["user"]
    for gid in edits.additionalGids:
        if gid and gid not in user.get("additionalGids", []):
            user.setdefault("additionalGids", []).append(gid)


def _node(node: DeviceNode, spec: Spec, name: str) -> tuple[Device, DeviceRule | None]:
    kind, major, minor = node.type, node.major, node.minor
    mode = node.fileMode
    if not kind or (kind != "p" and (major is None or minor is None)):
        source = node.hostPath or node.path
        try:
            found = os.stat(source)  # noqa: PTH116
        except OSError as error:
            raise FailedPrecondition(
                f"CDI device {name!r}: device node {source!r}: {error.strerror}",
                reason="DEVICE_NOT_FOUND",
                resource=f"path {source}",
            ) from error
        is_kind = device_type(found.st_mode)
        if not is_kind or (kind and kind.replace("u", "c") != is_kind):
            raise FailedPrecondition(
                f"CDI device {name!r}: {source!r} is no device of type {kind or 'b, c or p'}",
                reason="NO_DEVICE",
            )
        kind = kind or is_kind
        major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        mode = stat.S_IMODE(found.st_mode) if mode is None else mode
    device = Device(path=node.path, type=kind)
    rule: DeviceRule | None = None
    if kind != "p" and major is not None and minor is not None:
        device["major"], device["minor"] = major, minor
        letter = "b" if kind == "b" else "c"
        rule = DeviceRule(allow=True, type=letter, major=major, minor=minor, access=node.permissions or ALL)
    if mode is not None:
        device["fileMode"] = mode
    user = spec["process"]["user"]
    for key, asked, own in (("uid", node.uid, user["uid"]), ("gid", node.gid, user["gid"])):
        owner = own if asked is None else asked  # a node that says no owner is the container's user's
        if owner:
            device[key] = owner
    return device, rule


def _mount(item: CdiMount) -> MountEntry:
    options = list(item.options)
    kind = item.type
    if not kind or kind == "bind":
        kind = "bind"
        if not {"bind", "rbind"} & set(options):
            options.append("rbind")
    return MountEntry(destination=item.containerPath, type=kind, source=item.hostPath, options=options)


def _hook(item: CdiHook) -> Hook:
    hook = Hook(path=item.path)
    if item.args:
        hook["args"] = list(item.args)
    if item.env:
        hook["env"] = list(item.env)
    if item.timeout is not None:
        hook["timeout"] = item.timeout
    return hook


def _files(folder: Path) -> list[Path]:
    try:
        found = sorted(
            path for path in folder.iterdir() if path.suffix in (".json", ".yaml") and path.is_file()
        )
    except OSError:
        return []
    return found[:_MOST_FILES]

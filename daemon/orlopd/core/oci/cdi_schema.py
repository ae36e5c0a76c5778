"""The shape of a CDI specification file (Container Device Interface, SPEC.md, versions 0.3.0 to 1.1.0).

Strict as the schema that comes with it: a member that it does not know, or of another type, is an error.
"""

# The members' names are the specification's.
# ruff: noqa: N815

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_VENDOR = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_DEVICE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
KNOWN = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
_MOST_ANNOTATIONS = 256 << 10


def is_vendor(text: str) -> bool:
    """Whether it may name a vendor."""
    return len(text) <= 253 and _VENDOR.fullmatch(text) is not None


def is_class(text: str) -> bool:
    """Whether it may name a class of devices."""
    return len(text) <= 63 and _VENDOR.fullmatch(text) is not None


def is_device(text: str) -> bool:
    """Whether it may name a device."""
    return len(text) <= 253 and _DEVICE.fullmatch(text) is not None


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"{path!r} is not an absolute path")
    return path


def _variable(entry: str) -> str:
    if entry.find("=") < 1 or "\0" in entry:
        raise ValueError(f"{entry!r} is not KEY=VALUE")
    return entry


def _access(text: str) -> str:
    if set(text) - set("rwm"):
        raise ValueError(f"permissions {text!r}: want some of rwm")
    return text


def _annotations(value: dict[str, str]) -> dict[str, str]:
    if sum(len(key) + len(each) for key, each in value.items()) > _MOST_ANNOTATIONS:
        raise ValueError(f"annotations of more than {_MOST_ANNOTATIONS} bytes")
    return value


Absolute = Annotated[str, AfterValidator(_absolute)]
Variable = Annotated[str, AfterValidator(_variable)]
Annotations = Annotated[dict[str, str], AfterValidator(_annotations)]
Id = Annotated[int, Field(ge=0, le=2**32 - 2)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DeviceNode(_Strict):
    """SPEC.md: containerEdits.deviceNodes"""

    path: Absolute
    hostPath: Absolute | None = None
    type: Literal["b", "c", "u", "p", ""] = ""
    major: int | None = None
    minor: int | None = None
    fileMode: int | None = Field(default=None, ge=0, le=0o7777)
    permissions: Annotated[str, AfterValidator(_access)] = ""
    uid: Id | None = None
    gid: Id | None = None


class CdiMount(_Strict):
    """SPEC.md: containerEdits.mounts"""

    hostPath: str = Field(min_length=1)
    containerPath: Absolute
    type: str = ""
    options: list[str] = Field(default_factory=list[str])


class CdiHook(_Strict):
    """SPEC.md: containerEdits.hooks"""

    hookName: Literal[
        "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
    ]
    path: Absolute
    args: list[str] = Field(default_factory=list[str])
    env: list[Variable] = Field(default_factory=list[str])
    timeout: int | None = Field(default=None, ge=1)


class CdiIntelRdt(_Strict):
    """SPEC.md: containerEdits.intelRdt"""

    closID: str = ""
    l3CacheSchema: str = ""
    memBwSchema: str = ""
    enableCMT: bool = False
    enableMBM: bool = False


class Edits(_Strict):
    """SPEC.md: containerEdits"""

    env: list[Variable] = Field(default_factory=list[str])
    deviceNodes: list[DeviceNode] = Field(default_factory=list[DeviceNode])
    mounts: list[CdiMount] = Field(default_factory=list[CdiMount])
    hooks: list[CdiHook] = Field(default_factory=list[CdiHook])
    intelRdt: CdiIntelRdt | None = None
    additionalGids: list[Id] = Field(default_factory=list[int])


class CdiDevice(_Strict):
    """SPEC.md: devices"""

    name: str
    annotations: Annotations = Field(default_factory=dict[str, str])
    containerEdits: Edits

    @model_validator(mode="after")
    def _check(self) -> CdiDevice:
        if not is_device(self.name):
            raise ValueError(f"{self.name!r} is no name of a device")
        if self.containerEdits == Edits():
            raise ValueError(f"device {self.name!r} has no edits")
        return self


class CdiSpec(_Strict):
    """A whole file."""

    cdiVersion: str
    kind: str
    annotations: Annotations = Field(default_factory=dict[str, str])
    devices: list[CdiDevice] = Field(min_length=1)
    containerEdits: Edits = Edits()

    @model_validator(mode="after")
    def _check(self) -> CdiSpec:
        if self.cdiVersion not in KNOWN:
            raise ValueError(f"cdiVersion {self.cdiVersion!r}: known are {', '.join(KNOWN)}")
        vendor, slash, name = self.kind.partition("/")
        if not (slash and is_vendor(vendor) and is_class(name)):
            raise ValueError(f"kind {self.kind!r} is not VENDOR/CLASS")
        names = [device.name for device in self.devices]
        if len(set(names)) != len(names):
            raise ValueError("two devices have one name")
        needed = _needed(self)
        if KNOWN.index(self.cdiVersion) < KNOWN.index(needed):
            raise ValueError(f"it says cdiVersion {self.cdiVersion}, but has what came with {needed}")
        return self


def _needed(spec: CdiSpec) -> str:
    """The oldest version that has all that a specification uses (SPEC.md, version history)."""
    edits = [spec.containerEdits, *(device.containerEdits for device in spec.devices)]
    if any(each.intelRdt or each.additionalGids for each in edits):
        return "0.7.0"
    if (
        spec.annotations
        or any(device.annotations for device in spec.devices)
        or "." in spec.kind.split("/")[1]
    ):
        return "0.6.0"
    if any(device.name[0].isdigit() for device in spec.devices) or any(
        node.hostPath for each in edits for node in each.deviceNodes
    ):
        return "0.5.0"
    return "0.4.0" if any(item.type for each in edits for item in each.mounts) else "0.3.0"

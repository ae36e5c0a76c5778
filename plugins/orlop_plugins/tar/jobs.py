"""What a worker is asked to do and what it answers, as they travel between daemon and worker.

A job is one line of JSON, an answer some lines: ``{"progress": N}`` now and then, at last
``{"done": {…}}`` or ``{"error": {…}}``. While the blob that a job is about still arrives, the daemon sends
lines with the number of bytes that are there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol

from orlopd.plugin import errors
from orlopd.plugin.values import Mount

from .limits import Limits


@dataclass(frozen=True, slots=True)
class ApplyJob:
    """Unpack an archive.

    :param mounts: where to
    :param scratch: an empty directory to mount on
    :param path: the file to read; empty where it comes through the descriptor sent along
    :param digest: what the file has to have; empty for anything
    :param whiteouts: whether ``.wh.`` names have a meaning
    :param arriving: how many bytes the file will have, where it is still being written; else 0
    :param uids: what the archive's user ids are for the machine, see :class:`.owners.Owners`
    :param gids: the same for groups
    """

    mounts: tuple[Mount, ...]
    scratch: str
    path: str
    digest: str
    whiteouts: bool = True
    arriving: int = 0
    limits: Limits = field(default_factory=Limits)
    uids: str = ""
    gids: str = ""


@dataclass(frozen=True, slots=True)
class DiffJob:
    """Write a layer to the descriptor sent along.

    :param newest: in nanoseconds; later times are written as this one
    """

    lower: tuple[Mount, ...]
    upper: tuple[Mount, ...]
    scratch: str
    compression: str
    newest: int | None = None


Job = ApplyJob | DiffJob


class AnyJob(Protocol):
    """A dataclass, of what JSON has and :class:`.limits.Limits`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``digest`` and ``size`` of the uncompressed archive, and how many bytes of files were written."""

    digest: str
    size: int
    written: int = 0


def encode_job(job: AnyJob) -> bytes:
    """One line."""
    return json.dumps({"do": type(job).__name__, **asdict(job)}).encode() + b"\n"


def decode_job(line: bytes) -> Job:
    """The inverse of :func:`encode_job`."""
    data: dict[str, Any] = json.loads(line)
    kind = data.pop("do")
    for name in ("mounts", "lower", "upper"):
        if name in data:
            data[name] = _mounts(data[name])
    if "limits" in data:
        data["limits"] = Limits(**data["limits"])
    return ApplyJob(**data) if kind == "ApplyJob" else DiffJob(**data)


def _mounts(items: Sequence[dict[str, Any]]) -> tuple[Mount, ...]:
    return tuple(Mount(**{**item, "options": tuple(item["options"])}) for item in items)


def encode_error(error: errors.OrlopError) -> bytes:
    """One line."""
    fields = {name: getattr(error, name) for name in ("message", "reason", "resource", "hint")}
    return json.dumps({"error": {"kind": type(error).__name__, **fields}}).encode() + b"\n"


def decode_error(data: dict[str, Any]) -> errors.OrlopError:
    """The inverse of :func:`encode_error`."""
    kind = getattr(errors, data.pop("kind"), errors.Internal)
    message = data.pop("message")
    return kind(message, **data)

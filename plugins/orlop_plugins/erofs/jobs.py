"""What a worker of this plugin is asked to do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from orlop_plugins.tar.limits import Limits


@dataclass(frozen=True, slots=True)
class ImageJob:
    """Write an archive into the image that is the first descriptor sent along.

    :param scratch: an empty directory to be locked into
    :param path: the file to read; empty where it comes through the last descriptor sent along
    :param digest: what the file has to have
    :param userxattr: which attributes overlay has its marks in
    :param arriving: see :class:`orlop_plugins.tar.jobs.ApplyJob`
    """

    scratch: str
    path: str
    digest: str
    userxattr: bool
    arriving: int = 0
    limits: Limits = field(default_factory=Limits)


def decode_job(line: bytes) -> ImageJob:
    """The inverse of :func:`orlop_plugins.tar.jobs.encode_job`."""
    data: dict[str, Any] = json.loads(line)
    data.pop("do")
    return ImageJob(**{**data, "limits": Limits(**data["limits"])})

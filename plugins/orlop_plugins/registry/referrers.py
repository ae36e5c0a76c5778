"""Referrers: what says of itself that it is about something else.

Specification: OCI distribution-spec, "Listing Referrers", and its tag schema for registries that do not list
them by themselves.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio

from orlopd.plugin.errors import InvalidArgument, NotFound
from orlopd.plugin.values import Descriptor, check_digest

from .access import MANIFEST_LIMIT, Access

_INDEX = "application/vnd.oci.image.index.v1+json"
_MOST = 10_000
_TRIES = 3


async def add_referrer(way: Access, descriptor: Descriptor, data: bytes) -> None:
    """Note a manifest that was pushed under the tag of its subject, if it has one.

    :param data: the manifest
    :raises OrlopError: the registry does not take the note
    """
    try:
        document: Any = json.loads(data)
        subject = check_digest(document["subject"]["digest"])
    except (ValueError, RecursionError, LookupError, TypeError, InvalidArgument):
        return
    entry = _entry(descriptor, document)
    tag = subject.replace(":", "-")
    # Two that push referrers of one subject at a time may overwrite each other; who sees it does it again.
    for attempt in range(_TRIES):
        listed = await _listed(way, tag)
        if any(each.get("digest") == descriptor.digest for each in listed):
            return
        if attempt:
            await anyio.sleep(way.transport.pause(attempt))
        await _write(way, tag, [*listed, entry][-_MOST:])


def _entry(descriptor: Descriptor, document: dict[str, Any]) -> dict[str, Any]:
    config = document.get("config")
    kind = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else "")
    entry: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if isinstance(kind, str) and kind:
        entry["artifactType"] = kind
    if isinstance(document.get("annotations"), dict):
        entry["annotations"] = document["annotations"]
    return entry


async def _listed(way: Access, tag: str) -> list[dict[str, Any]]:
    what = f"the referrers {tag} of {way.reference.repository}"
    try:
        async with way.transport.open(way.ask("GET", f"manifests/{tag}", what)) as response:
            data = await way.transport.read(response, MANIFEST_LIMIT, what)
    except NotFound:
        return []
    try:
        entries: Any = json.loads(data)["manifests"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return []
    return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []


async def _write(way: Access, tag: str, entries: list[dict[str, Any]]) -> None:
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries}
    data = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()

    async def body() -> AsyncGenerator[bytes]:
        yield data

    ask = way.ask(
        "PUT",
        f"manifests/{tag}",
        f"the referrers {tag} of {way.reference.repository}",
        headers={"Content-Type": _INDEX},
        content=body,
        length=len(data),
    )
    async with way.transport.open(ask):
        pass

"""Referrers: what says of itself that it is about something else.

Specification: OCI distribution-spec, "Listing Referrers", and its tag schema for registries that do not list
them by themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import httpx

from orlopd.plugin.errors import InvalidArgument, NotFound, Unavailable
from orlopd.plugin.values import Descriptor, check_digest

from .access import MANIFEST_LIMIT, Access, media_type_of
from .hosts import origin

_INDEX = "application/vnd.oci.image.index.v1+json"
_MOST = 10_000
_TRIES = 3
_PAGES = 50
_UNKNOWN = frozenset({400, 404, 405, 406, 501})
"""What registries answer that do not know the API."""
_NEXT = re.compile(r'<([^<>]{1,4096})>\s*;\s*rel="?next"?')


async def find_referrers(way: Access, digest: str, artifact_type: str) -> tuple[Descriptor, ...]:
    """What refers to a digest, by the registry's API, or else as the tag schema has it.

    :param artifact_type: of this type alone; all when empty
    :raises Unavailable: what the registry lists cannot be read, or has no end
    """
    entries = await _by_api(way, digest, artifact_type)
    if entries is None:
        entries = await _listed(way, digest.replace(":", "-"))
    found = [_descriptor(way, each) for each in entries]
    # A registry need not filter, and the tag schema cannot.
    wanted = [each for each in found if not artifact_type or each.artifact_type == artifact_type]
    return tuple({each.digest: each for each in wanted}.values())


async def _by_api(way: Access, digest: str, artifact_type: str) -> list[dict[str, Any]] | None:
    what = f"the referrers of {digest} in {way.reference.repository}"
    found: list[dict[str, Any]] = []
    url = way.ask("GET", f"referrers/{digest}", what).url
    if artifact_type:
        url = url.copy_merge_params({"artifactType": artifact_type})
    for _ in range(_PAGES):
        ask = way.ask("GET", str(url), what, accept=lambda status: status < 300 or status in _UNKNOWN)
        async with way.transport.open(ask) as response:
            if response.status_code in _UNKNOWN or media_type_of(response.headers) != _INDEX:
                return None
            data = await way.transport.read(response, MANIFEST_LIMIT, what)
            after = _NEXT.search(response.headers.get("link", ""))
        found += _entries(data)
        if len(found) > _MOST:
            break
        if after is None:
            return found
        try:
            further = url.join(after[1])
        except httpx.InvalidURL:
            break
        if origin(further) != origin(url):
            break  # a list goes on where it began
        url = further
    raise _unreadable(way, f"has no end within {_PAGES} pages and {_MOST} entries, or goes on elsewhere")


def _descriptor(way: Access, entry: dict[str, Any]) -> Descriptor:
    size: Any = entry.get("size")
    media_type: Any = entry.get("mediaType")
    kind: Any = entry.get("artifactType", "")
    annotations: Any = entry.get("annotations") or {}
    try:
        digest = check_digest(str(entry.get("digest")))
    except InvalidArgument as error:
        raise _unreadable(way, error.message) from None
    sound = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 63
    texts = [media_type, kind]
    if isinstance(annotations, dict):
        texts += [*annotations, *annotations.values()]
    if not sound or not isinstance(annotations, dict) or not all(isinstance(each, str) for each in texts):
        raise _unreadable(way, f"says of {digest} what cannot be read")
    return Descriptor(media_type, digest, size, annotations=annotations, artifact_type=kind)


def _unreadable(way: Access, how: str) -> Unavailable:
    host = way.reference.host
    return Unavailable(
        f"the list of referrers that registry {host} keeps for {way.reference.repository} {how[:200]}",
        reason="BAD_REFERRERS",
        resource=f"registry {host}",
    )


async def add_referrer(way: Access, descriptor: Descriptor, data: bytes) -> None:
    """Note a manifest that was pushed under the tag of its subject, if it has one.

    :param data: the manifest
    :raises OrlopError: the registry does not take the note
    """
    found = _subject(data)
    if found is None:
        return
    subject, document = found
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


async def note_referrer(way: Access, descriptor: Descriptor, data: bytes) -> None:
    """As :func:`add_referrer`, for a manifest that was there already, by whoever has noted it or not.

    A registry that lists referrers by itself is left alone.
    """
    found = _subject(data)
    if found is not None and await _by_api(way, found[0], "") is None:
        await add_referrer(way, descriptor, data)


def _subject(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """The digest that a manifest is about, and the manifest; None where it is about nothing."""
    try:
        document: Any = json.loads(data)
        return check_digest(document["subject"]["digest"]), document
    except (ValueError, RecursionError, LookupError, TypeError, InvalidArgument):
        return None


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
    return _entries(data)


def _entries(data: bytes) -> list[dict[str, Any]]:
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

"""Referrers in a layout: its manifests that say of themselves what they are about (OCI image-spec 1.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anyio import to_thread

from orlopd.plugin import Referrers, ResolveOptions
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Descriptor, sha256

from .oci import LIMIT, descriptor, document
from .resolver import FileResolver, FileSource, Opened

_DEFAULTS = ResolveOptions()
_INDEX = "application/vnd.oci.image.index.v1+json"
_TYPES = frozenset({_INDEX, "application/vnd.oci.image.manifest.v1+json"})
_MOST = 4096
_MOST_BYTES = 64 << 20
_DEPTH = 4


class LayoutResolver(FileResolver):
    """A resolver of OCI layouts. See :class:`orlopd.plugin.ReferringResolver`."""

    async def referrers(
        self, reference: str, artifact_type: str = "", options: ResolveOptions = _DEFAULTS
    ) -> Referrers:
        """See :class:`orlopd.plugin.ReferringResolver`. What a layout lists is looked at, and the children
        of indexes, among them those that note referrers by a tag."""
        async with self.opened(reference) as (opened, path, wanted):
            found = await to_thread.run_sync(_find, path, opened, artifact_type)
            return Referrers(FileSource(opened, path, wanted).name, opened.target.digest, found)


def _find(path: str, opened: Opened, artifact_type: str) -> tuple[Descriptor, ...]:
    found: dict[str, Descriptor] = {}
    seen: set[str] = set()
    left = _MOST_BYTES

    def look(entries: Iterable[Descriptor], depth: int) -> None:
        nonlocal left
        for each in entries:
            if each.media_type not in _TYPES or each.digest in seen:
                continue
            seen.add(each.digest)
            size = opened.place.size(each.digest)
            if size is None:
                continue  # a layout need not have all that it lists
            left -= size
            if len(seen) > _MOST or left < 0 or size > LIMIT:
                raise InvalidArgument(
                    f"{path}: more than {_MOST} manifests, or larger ones, are not read for their subjects",
                    reason="MALFORMED_ARCHIVE",
                )
            data = opened.place.read(each.digest, 0, size)
            if sha256(data) != each.digest:
                continue  # who fetches it is told
            said = document(path, each.digest, data)
            if _about(said) == opened.target.digest:
                kind = _kind(said)
                if not artifact_type or kind == artifact_type:
                    found[each.digest] = Descriptor(
                        each.media_type, each.digest, size, annotations=_annotations(said), artifact_type=kind
                    )
            children = said.get("manifests")
            if each.media_type == _INDEX and isinstance(children, list) and depth < _DEPTH:
                look([descriptor(path, child) for child in children[:_MOST]], depth + 1)

    look(opened.listed, 0)
    return tuple(found.values())


def _about(said: dict[str, Any]) -> str:
    subject: Any = said.get("subject")
    return str(subject.get("digest")) if isinstance(subject, dict) else ""


def _kind(said: dict[str, Any]) -> str:
    config: Any = said.get("config")
    kind: Any = said.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else "")
    return kind if isinstance(kind, str) else ""


def _annotations(said: dict[str, Any]) -> dict[str, str]:
    annotations: Any = said.get("annotations")
    if not isinstance(annotations, dict):
        return {}
    return {key: value for key, value in annotations.items() if isinstance(value, str)}

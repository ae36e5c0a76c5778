"""Reading JSON that came from outside: bounded, typed, one clear error for whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import NO_LABELS, Descriptor, Platform, check_digest

_LONGEST_TEXT = 1 << 16


def load(data: bytes, what: str, *, limit: int, unique_keys: bool = False) -> Node:
    """Parse a JSON object.

    :param what: names the document in errors, for example ``manifest sha256:…``
    :param limit: the most bytes it may have
    :param unique_keys: refuse an object that says a key twice, which two readers would read differently
    :raises InvalidArgument: it is anything else
    """
    return load_any(data, what, limit=limit, unique_keys=unique_keys).object()


def load_any(data: bytes, what: str, *, limit: int, unique_keys: bool = False) -> Node:
    """As :func:`load`, for a document that need not be an object."""
    if len(data) > limit:
        raise malformed(f"{what} has {len(data)} bytes; the limit is {limit}", "DOCUMENT_TOO_LARGE")
    hook = _unique if unique_keys else None
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=hook)
    except _TwiceError as error:
        raise malformed(f"{what} says {error.args[0]!r} twice") from None
    except (ValueError, RecursionError) as error:
        detail = "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise malformed(f"{what} is not JSON: {detail}") from None
    return Node(value, what)


def malformed(message: str, reason: str = "MALFORMED_DOCUMENT") -> InvalidArgument:
    """What every reader of outside documents raises."""
    return InvalidArgument(message, reason=reason)


@dataclass(frozen=True, slots=True)
class Node:
    """A value in a document, which knows where it is, so that an error can say so.

    A member that is absent reads as the empty value of its type, and so does null: Go's encoders,
    which write most of these documents, make no difference.
    """

    value: Any
    name: str
    parent: Node | None = None

    @property
    def where(self) -> str:
        """The way to it from the document's top."""
        if self.parent is None:
            return self.name
        joint = "" if self.name.startswith("[") else ": "
        return f"{self.parent.where}{joint}{self.name}"

    def get(self, key: str) -> Node:
        """A member of an object."""
        fields = self._fields()
        return Node(fields.get(key), f"{self.where}: {key}")

    def has(self, key: str) -> bool:
        """Whether an object has a member of this name that is not null."""
        return self.get(key).value is not None

    def object(self) -> Node:
        """Itself, an object. :raises InvalidArgument: it is not"""
        if self.value is not None and not isinstance(self.value, dict):
            raise malformed(f"{self.where} is no object")
        return self

    def text(self) -> str:
        """:raises InvalidArgument: no string, or one beyond 64 KiB"""
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise malformed(f"{self.where} is no string")
        if len(self.value) > _LONGEST_TEXT:
            raise malformed(f"{self.where} is longer than {_LONGEST_TEXT} characters")
        return self.value

    def number(self) -> int:
        """:raises InvalidArgument: no whole number from 0 to 2^63-1"""
        if self.value is None:
            return 0
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise malformed(f"{self.where} is no whole number")
        if not 0 <= self.value < 1 << 63:
            raise malformed(f"{self.where} is out of range")
        return self.value

    def items(self, limit: int) -> Sequence[Node]:
        """The elements of a list. :raises InvalidArgument: no list, or one beyond ``limit``"""
        if self.value is None:
            return ()
        value: object = self.value
        if not isinstance(value, list):
            raise malformed(f"{self.where} is no list")
        values = cast("list[Any]", value)
        if len(values) > limit:
            raise malformed(
                f"{self.where} has {len(values)} entries; the limit is {limit}", "TOO_MANY_ENTRIES"
            )
        return [Node(value, f"[{index}]", self) for index, value in enumerate(values)]

    def texts(self, limit: int = 10_000) -> tuple[str, ...]:
        """The elements of a list of strings."""
        return tuple(each.text() for each in self.items(limit))

    def mapping(self, limit: int = 10_000) -> Mapping[str, str]:
        """An object whose values are strings."""
        if self.value is None:
            return NO_LABELS
        fields = cast("dict[str, Any]", self.object().value)
        if len(fields) > limit:
            raise malformed(
                f"{self.where} has {len(fields)} entries; the limit is {limit}", "TOO_MANY_ENTRIES"
            )
        return MappingProxyType({key: self.get(key).text() for key in fields})

    def keys(self, limit: int = 10_000) -> tuple[str, ...]:
        """The names of an object's members, sorted."""
        fields = cast("dict[str, Any]", self.object().value or {})
        if len(fields) > limit:
            raise malformed(
                f"{self.where} has {len(fields)} entries; the limit is {limit}", "TOO_MANY_ENTRIES"
            )
        return tuple(sorted(fields))

    def digest(self) -> str:
        """A digest that may become a path. :raises InvalidArgument: it is malformed"""
        return self._checked(check_digest)

    def platform(self) -> Platform | None:
        """A platform object (OCI image-spec, image-index.md)."""
        if not self.object().value:
            return None
        return Platform(
            self.get("os").text(),
            self.get("architecture").text(),
            self.get("variant").text(),
            self.get("os.version").text(),
        )

    def descriptor(self) -> Descriptor:
        """A descriptor (OCI image-spec, descriptor.md); its digest is well formed."""
        node = self.object()
        media_type = node.get("mediaType").text()
        if not media_type:
            raise malformed(f"{self.where}: mediaType is missing")
        return Descriptor(
            media_type=media_type,
            digest=node.get("digest").digest(),
            size=node.get("size").number(),
            platform=node.get("platform").platform(),
            annotations=node.get("annotations").mapping(),
            urls=node.get("urls").texts(limit=64),
            artifact_type=node.get("artifactType").text(),
        )

    def _fields(self) -> dict[str, Any]:
        value: object = self.value
        return cast("dict[str, Any]", value) if isinstance(value, dict) else {}

    def _checked(self, check: Callable[[str], str]) -> str:
        try:
            return check(self.text())
        except InvalidArgument as error:
            raise malformed(f"{self.where}: {error.message}", error.reason) from None


def dump(value: Mapping[str, Any]) -> bytes:
    """The one way we write a document: sorted, compact, without empty members at its top."""
    kept = {key: each for key, each in value.items() if each not in (None, "", [], {}, ())}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def descriptor_object(descriptor: Descriptor) -> dict[str, Any]:
    """A descriptor as a JSON object."""
    value: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        value["annotations"] = dict(descriptor.annotations)
    if descriptor.urls:
        value["urls"] = list(descriptor.urls)
    if descriptor.artifact_type:
        value["artifactType"] = descriptor.artifact_type
    if descriptor.platform is not None:
        value["platform"] = platform_object(descriptor.platform)
    return value


def platform_object(platform: Platform) -> dict[str, str]:
    """A platform as a JSON object."""
    pairs = (
        ("os", platform.os),
        ("architecture", platform.architecture),
        ("variant", platform.variant),
        ("os.version", platform.os_version),
    )
    return {key: value for key, value in pairs if value}


class _TwiceError(Exception):
    pass


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise _TwiceError(key[:80])
        seen[key] = value
    return seen

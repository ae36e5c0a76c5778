"""What somebody changed in a runtime spec: a comparison of it before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

_MOST = 200
"""Changes kept of one plugin; who changes more than that has made a spec of its own."""


@dataclass(frozen=True, slots=True)
class SpecChange:
    """A change that a plugin made. ``path`` is a JSON pointer (RFC 6901) into the spec as it then was,
    ``operation`` is add, remove or replace."""

    plugin: str
    path: str
    operation: str


def changes(plugin: str, before: Any, after: Any) -> list[SpecChange]:
    """What is different, in the order of the spec; lists are compared place by place."""
    found: list[SpecChange] = []
    for path, operation in _compare("", before, after):
        if len(found) == _MOST:
            return [SpecChange(plugin, "", "replace")]
        found.append(SpecChange(plugin, path, operation))
    return found


def _compare(path: str, before: Any, after: Any) -> Iterator[tuple[str, str]]:
    if isinstance(before, dict) and isinstance(after, dict):
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        for key in dict.fromkeys((*old, *new)):
            yield from _member(
                f"{path}/{_escape(str(key))}", key in old, key in new, old.get(key), new.get(key)
            )
    elif isinstance(before, list) and isinstance(after, list):
        olds, news = cast("list[Any]", before), cast("list[Any]", after)
        for number in range(max(len(olds), len(news))):
            had, has = number < len(olds), number < len(news)
            yield from _member(
                f"{path}/{number}", had, has, olds[number] if had else None, news[number] if has else None
            )
    elif before != after:
        yield path, "replace"


def _member(path: str, had: bool, has: bool, before: Any, after: Any) -> Iterator[tuple[str, str]]:
    if had and has:
        yield from _compare(path, before, after)
    else:
        yield path, "add" if has else "remove"


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")

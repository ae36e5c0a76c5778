"""Field masks, as containerd reads them: ``labels``, ``labels.KEY``, and the fields that may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from orlopd.plugin.errors import InvalidArgument

from .identifiers import quoted


def select(
    what: str,
    paths: Sequence[str],
    current: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of an object after an update.

    :param what: the object, for messages
    :param paths: the mask; each a key of ``current`` or, for a field that is a map, ``FIELD.KEY``
    :param current: the fields that a mask may name, as they are
    :param wanted: the same fields as the caller sent them
    :raises InvalidArgument: a path names something else
    """
    fields = dict(current)
    for path in paths:
        if path in current:
            fields[path] = wanted[path]
            continue
        field, dot, key = path.partition(".")
        if not dot or not isinstance(current.get(field), Mapping):
            raise InvalidArgument(
                f"cannot update {quoted(path)} field on {what}: invalid argument",
                hint=f"fields that can change: {', '.join(current)}",
            )
        # A key that the caller left out is removed, which is what an empty value means everywhere.
        merged = {**fields[field]}
        merged.pop(key, None)
        if key in wanted[field]:
            merged[key] = wanted[field][key]
        fields[field] = MappingProxyType(merged)
    return fields

"""The fields of an event as text, and back: JSON, with a mark for what JSON has no word for."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from orlopd.plugin.values import FieldValue, TypedBytes

from .db import from_micros, to_micros

_TIME, _TYPED, _BYTES, _MAP = "$time", "$typed", "$bytes", "$map"


def dump_fields(fields: Mapping[str, FieldValue]) -> str:
    """The fields as text; what cannot be written is left out, an event is worth more than none."""
    try:
        return json.dumps(_plain(fields), separators=(",", ":"))
    except (TypeError, ValueError):
        return "{}"


def load_fields(text: str) -> Mapping[str, FieldValue]:
    """What :func:`dump_fields` was given; nothing where the text is damaged."""
    try:
        value = _value(json.loads(text))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError):
        return {}
    return cast("Mapping[str, FieldValue]", value) if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return {_TIME: to_micros(value)}
        case TypedBytes():
            return {_TYPED: [value.type_url, base64.b64encode(value.value).decode()]}
        case bytes():
            return {_BYTES: base64.b64encode(value).decode()}
        case Mapping():
            items = cast("Mapping[Any, Any]", value).items()
            plain = {str(key): _plain(each) for key, each in items}
            # A key of somebody else's may look like a mark.
            return {_MAP: list(plain.items())} if any(key.startswith("$") for key in plain) else plain
        case list() | tuple():
            return [_plain(each) for each in cast("Sequence[Any]", value)]
        case _:
            return value


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(each) for each in cast("list[Any]", plain)]
    if not isinstance(plain, dict):
        return plain
    found = cast("dict[str, Any]", plain)
    if len(found) == 1:
        ((mark, inner),) = found.items()
        if mark == _TIME:
            return from_micros(inner)
        if mark == _TYPED:
            return TypedBytes(inner[0], base64.b64decode(inner[1]))
        if mark == _BYTES:
            return base64.b64decode(inner)
        if mark == _MAP:
            return {key: _value(each) for key, each in inner}
    return {key: _value(each) for key, each in found.items()}

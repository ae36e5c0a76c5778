"""Lists by the page, and the fields of each item that a client wants."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

from orlopd.plugin.errors import InvalidArgument

M = TypeVar("M", bound=Message)
T = TypeVar("T")

PAGE = 1000


def page(
    items: Sequence[T], key: Callable[[T], list[Any]], size: int, token: str, *, descending: bool = False
) -> tuple[Sequence[T], str]:
    """One page of sorted items, and the token of the next ("" after the last).

    A token names the last item given, so that what comes and goes between two pages shifts nothing.

    :raises InvalidArgument: a malformed token, or a negative size
    """
    if size < 0:
        raise InvalidArgument("page_size cannot be negative")
    after = _read_token(token) if token else None
    if after is not None:
        try:
            items = [each for each in items if (key(each) < after if descending else key(each) > after)]
        except TypeError as error:
            raise _bad_token(token) from error
    chosen = items[: min(size or PAGE, PAGE)]
    more = len(items) > len(chosen)
    return chosen, _write_token(key(chosen[-1])) if more and chosen else ""


def _write_token(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _read_token(token: str) -> list[Any]:
    try:
        key = json.loads(base64.urlsafe_b64decode(token.encode()))
    except ValueError as error:
        raise _bad_token(token) from error
    if not isinstance(key, list):
        raise _bad_token(token)
    return key


def _bad_token(token: str) -> InvalidArgument:
    return InvalidArgument(
        f"page_token {token[:40]!r} did not come from this daemon", reason="BAD_PAGE_TOKEN"
    )


def masked(message: M, mask: field_mask_pb2.FieldMask, kind: type[M]) -> M:
    """The fields of a message that a mask names; all of them without a mask.

    :raises InvalidArgument: it names a field that there is not
    """
    if not mask.paths:
        return message
    descriptor: Any = kind.DESCRIPTOR
    if not mask.IsValidForDescriptor(descriptor):
        raise InvalidArgument(
            f"read_mask {','.join(mask.paths)[:200]!r}: {kind.DESCRIPTOR.name} has no such field"
        )
    chosen = kind()
    mask.MergeMessage(message, chosen)
    return chosen

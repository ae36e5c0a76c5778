"""How values look to a person: sizes, ages, tables; and to a program: JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
AGES = (("year", 365 * 86400), ("month", 30 * 86400), ("week", 7 * 86400), ("day", 86400), ("hour", 3600))


def printable(text: str) -> str:
    """The text on one line, with nothing in it that a terminal would obey: names come from anywhere."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: float) -> str:
    """Bytes as a person says them: "512 B", "3.4 MiB"."""
    for unit in UNITS:
        if count < 1024 or unit == UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def span(seconds: float) -> str:
    """A length of time as a person says it, roughly: "3 minutes", "2 days"."""
    seconds = max(0, int(seconds))
    for name, length in AGES:
        if seconds >= 2 * length:
            return f"{seconds // length} {name}s"
    if seconds >= 120:
        return f"{seconds // 60} minutes"
    if seconds >= 60:
        return "1 minute"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def since(at: datetime | None) -> str:
    """The time since then, without "ago"; "-" when it is not known."""
    return "-" if at is None else span((datetime.now(UTC) - at).total_seconds())


def ago(at: datetime | None) -> str:
    """The age of something: "3 minutes ago"."""
    return "-" if at is None else f"{since(at)} ago"


def moment(at: datetime | None) -> str:
    """A time for a log line, RFC 3339 in UTC with microseconds."""
    if at is None:
        return "-"
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def short(identity: str) -> str:
    """The first twelve digits of an id or digest."""
    return identity.removeprefix("sha256:")[:12]


def shortened(text: str, width: int) -> str:
    """The text, cut with an ellipsis when it is longer than ``width``."""
    return text if len(text) <= width else text[: width - 1] + "…"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two spaces apart."""
    lines = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def plain(value: Any) -> Any:
    """A value as JSON takes it: dataclasses become objects, times RFC 3339, bytes text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """A value, or a list of values, as JSON; with ``indent`` None on one line."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=False)

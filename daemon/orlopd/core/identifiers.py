"""What names and labels may look like, as containerd has it."""

from __future__ import annotations

import json
import re

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Labels

MAX_IDENTIFIER = 76
MAX_NAME = 4096
MAX_LABEL = 4096

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_SHOWN_KEY = 64
_SHOWN = 200


def quoted(text: str) -> str:
    """A name as messages show it: in double quotes, on one line, of bounded length."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return json.dumps(shown, ensure_ascii=False)


def check_identifier(value: str, what: str = "identifier") -> str:
    """Return ``value`` if it may name a container, a namespace or an exec; it is then safe as a file's name.

    :raises InvalidArgument: empty, longer than 76 characters, or not letters and digits in groups
        joined by single dots, dashes or underscores
    """
    if not value:
        raise InvalidArgument(f"{what} must not be empty: invalid argument")
    if len(value) > MAX_IDENTIFIER:
        raise InvalidArgument(
            f"{what} {quoted(value)} has {len(value)} characters, "
            f"at most {MAX_IDENTIFIER} are allowed: invalid argument"
        )
    if not _IDENTIFIER.fullmatch(value):
        raise InvalidArgument(
            f"{what} {quoted(value)} must be letters and digits, "
            "joined by single '.', '-' or '_': invalid argument"
        )
    return value


def check_name(value: str, what: str) -> str:
    """Return ``value`` if it may name an image, a snapshot, a lease or an ingest: any text but none too long.

    :raises InvalidArgument: empty, longer than 4096 characters, or with a zero byte
    """
    if not value:
        raise InvalidArgument(f"{what} must not be empty: invalid argument")
    if len(value) > MAX_NAME:
        raise InvalidArgument(
            f"{what} {quoted(value)} has {len(value)} characters, "
            f"at most {MAX_NAME} are allowed: invalid argument"
        )
    if "\0" in value:
        raise InvalidArgument(f"{what} {quoted(value)} must not have a zero byte: invalid argument")
    return value


def check_namespace(value: str) -> str:
    """Return ``value`` if it may name a namespace. :raises InvalidArgument: see check_identifier"""
    return check_identifier(value, "namespace")


def check_labels(labels: Labels, what: str = "label") -> Labels:
    """Return ``labels`` if each key and its value have at most 4096 bytes together.

    :raises InvalidArgument: one is larger
    """
    for key, value in labels.items():
        size = len(key.encode()) + len(value.encode())
        if size > MAX_LABEL:
            raise InvalidArgument(
                f"{what} {quoted(key[:_SHOWN_KEY])}: key and value have {size} bytes together, "
                f"at most {MAX_LABEL} are allowed: invalid argument"
            )
    return labels

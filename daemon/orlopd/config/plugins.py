"""Checking what a file says against a model, with errors for the person who wrote the file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean "…"?`` with the known word most like ``word``, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{found[0]}"?' if found else ""


class SectionError(Exception):
    """What is wrong with a section: ``path`` leads to the key, ``message`` says the rest."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def check_section(model: type[M], section: Mapping[str, Any], path: tuple[str, ...] = ()) -> M:
    """Make the model of a section.

    :raises SectionError: an unknown key or a wrong value, the first that there is
    """
    try:
        return model.model_validate(dict(section))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = tuple(str(part) for part in first["loc"])
        name = ".".join(where)
        if first["type"] == "extra_forbidden":
            known = _keys(model, where[:-1])
            message = f'unknown key "{name}"{nearest(where[-1], known)}'
        elif first["type"] == "missing":
            message = f'the key "{name}" is missing'
        elif first["type"] == "value_error":
            message = f"{_key(name)}{first['msg'].removeprefix('Value error, ')}"
        else:
            message = f"{_key(name)}{_lower(first['msg'])}, not {_show(first['input'])}"
        raise SectionError((*path, *where), message) from None


def _key(name: str) -> str:
    return f'key "{name}": ' if name else ""


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _show(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _keys(model: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """The keys known at ``path`` below ``model``; those of the model itself if the path leaves it."""
    current = model
    for part in path:
        field = current.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        current = annotation
    return [field.alias or name for name, field in current.model_fields.items()]

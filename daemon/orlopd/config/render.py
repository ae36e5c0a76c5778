"""Showing a configuration as TOML, with every key's description above it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def render(
    config: BaseModel,
    plugins: Mapping[str, Mapping[str, BaseModel]],
    *,
    comments: bool = True,
) -> str:
    """The file that says what ``config`` and the plugins' sections say.

    :param plugins: for each kind's short name and each id the section's model
    :param comments: with descriptions; otherwise keys alone
    """
    lines = list(_section(config, (), comments, skip=("plugins",)))
    for kind, parts in sorted(plugins.items()):
        for part, section in sorted(parts.items()):
            lines += ["", f"[plugins.{_name(kind)}.{_name(part)}]"]
            body = list(_section(section, ("plugins", kind, part), comments))
            lines += body or (["# This plugin has no keys."] if comments else [])
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _section(
    model: BaseModel, path: tuple[str, ...], comments: bool, skip: tuple[str, ...] = ()
) -> Iterator[str]:
    tables: list[tuple[str, FieldInfo, BaseModel]] = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        key = field.alias or name
        if key in skip:
            continue
        if isinstance(value, BaseModel):
            tables.append((key, field, value))
            continue
        if comments:
            yield ""
            yield from _comment(field.description or "")
        if value is None:
            yield f"# {_name(key)} ="
        else:
            yield f"{_name(key)} = {_value(value)}"
    for key, field, value in tables:
        yield ""
        if comments:
            yield from _comment(field.description or "")
        yield f"[{'.'.join(map(_name, (*path, key)))}]"
        yield from _section(value, (*path, key), comments)


def _comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"# {line}".rstrip()


def _name(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        return _value(value.model_dump(exclude_none=True))
    if isinstance(value, Path):
        return _value(str(value))
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_name(str(k))} = {_value(v)}" for k, v in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"[{', '.join(_value(item) for item in value)}]"
    # Imported here: only `orlopd config` needs it, and the daemon's start is to be quick.
    import tomlkit

    return tomlkit.item(value).as_string()

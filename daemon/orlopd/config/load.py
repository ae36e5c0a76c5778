"""Reading the configuration: defaults, then the file, then the command line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .model import Config
from .paths import default_config_dir
from .plugins import SectionError, check_section


class ConfigError(Exception):
    """The configuration cannot be used. The message is one line that names file and key."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says; None and empty where it says nothing."""

    root: str | None = None
    state: str | None = None
    addresses: Sequence[str] = ()
    log_level: str | None = None

    def apply(self, values: dict[str, Any]) -> dict[str, str]:
        """Put the overrides into ``values``; which option each key now comes from."""
        given = {
            "root": self.root and str(Path(self.root).absolute()),
            "state": self.state and str(Path(self.state).absolute()),
            "addresses": list(self.addresses),
            "log_level": self.log_level,
        }
        options = {"addresses": "--address"}
        changed = {key: value for key, value in given.items() if value}
        values.update(changed)
        return {key: options.get(key, "--" + key.replace("_", "-")) for key in changed}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration in effect and the file it came from, None when there is none."""

    config: Config
    file: Path | None = None
    text: str = ""

    def error(self, path: Sequence[str], message: str) -> ConfigError:
        """An error about the key that ``path`` leads to."""
        if self.file is None:
            return ConfigError(message)
        line = find_line(self.text, path)
        return ConfigError(f"{self.file}: {f'line {line}: ' if line else ''}{message}")


def load(file: Path | None = None, overrides: Overrides = Overrides()) -> Loaded:
    """Read ``file``, or the default one if that exists, and apply the overrides.

    :raises ConfigError: the file is missing, no TOML, or has unknown keys or wrong values
    """
    values: dict[str, Any] = {}
    text = ""
    if file is None:
        standard = default_config_dir() / "config.toml"
        file = standard if standard.exists() else None
    if file is not None:
        try:
            text = file.read_text("utf-8")
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file}: not TOML: {_lower(str(error))}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{file}: not UTF-8 text") from None
        except OSError as error:
            raise ConfigError(f"{file}: {(error.strerror or str(error)).lower()}") from None
    options = overrides.apply(values)
    try:
        return Loaded(check_section(Config, values), file, text)
    except SectionError as error:
        if error.path and error.path[0] in options:
            message = error.message.removeprefix(f'key "{".".join(error.path)}": ')
            raise ConfigError(f"{options[error.path[0]]}: {message}") from None
        raise Loaded(Config(), file, text).error(error.path, error.message) from None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


_HEADER = re.compile(r"\s*\[\[?\s*(.+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r'\s*((?:"[^"]*"|\'[^\']*\'|[\w-]+)(?:\s*\.\s*(?:"[^"]*"|\'[^\']*\'|[\w-]+))*)\s*=')
_PART = re.compile(r'"([^"]*)"|\'([^\']*)\'|([\w-]+)')


def find_line(text: str, path: Sequence[str]) -> int | None:
    """The line of ``text`` where the key that ``path`` leads to is set, from 1; None if not found.

    A scan for the usual ways of writing, not a parser: it may find nothing, and then the message
    goes without a line.
    """
    table: tuple[str, ...] = ()
    wanted = tuple(path)
    best: tuple[int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        key = None if header else _KEY.match(line)
        if header:
            table = here = _parts(header[1])
        elif key:
            here = (*table, *_parts(key[1]))
        else:
            continue
        depth = len(here)
        if here == wanted[:depth] and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(a or b or c for a, b, c in _PART.findall(dotted))

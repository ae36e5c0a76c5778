"""A container's record between the engine and containerd's model.

An engine's container is an ordinary containerd container: its name is a label, and what only the
engine knows lies in one extension as JSON, so that the tools people have see the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pydantic

from orlopd.core.healthcheck import Healthcheck
from orlopd.core.oci import NO_MAPS, IdMaps
from orlopd.core.spec_changes import SpecChange
from orlopd.plugin.values import SPEC_TYPE_URL, Container, TypedBytes

from .model import ContainerSpec

PREFIX = "orlop/"
NAME_LABEL = "orlop/name"
KEY_LABEL = "orlop/idempotency-key"
EXTENSION = "orlop.dev/engine"
EXTENSION_TYPE_URL = "orlop.dev/engine/1/Config"

DEFAULT_STOP_SIGNAL = "SIGTERM"


@dataclass(frozen=True, slots=True)
class Config:
    """What the engine keeps of a container it made."""

    spec: ContainerSpec
    stop_signal: str = DEFAULT_STOP_SIGNAL
    version: int = 1
    maps: IdMaps = NO_MAPS
    health: Healthcheck | None = None
    changes: tuple[SpecChange, ...] = ()


_adapter: pydantic.TypeAdapter[Config] = pydantic.TypeAdapter(Config)


def pack_config(config: Config) -> TypedBytes:
    """The extension that holds ``config``."""
    return TypedBytes(EXTENSION_TYPE_URL, _adapter.dump_json(config, exclude_defaults=True))


def config_of(container: Container) -> Config | None:
    """The engine's own part of a record; None where another API made it (or a later version did)."""
    extension = container.extensions.get(EXTENSION)
    if extension is None:
        return None
    try:
        return _adapter.validate_json(extension.value)
    except pydantic.ValidationError:
        return None


def changes_of(container: Container) -> Sequence[SpecChange]:
    """What plugins changed in its spec."""
    config = config_of(container)
    return config.changes if config else ()


def name_of(container: Container) -> str:
    """A container's name; its id where it has none of its own."""
    return container.labels.get(NAME_LABEL, "") or container.id


def own_labels(container: Container) -> Mapping[str, str]:
    """A container's labels without the daemon's own."""
    return {key: value for key, value in container.labels.items() if not key.startswith(PREFIX)}


def pack_spec(spec: Mapping[str, Any]) -> TypedBytes:
    """An OCI spec as it travels."""
    return TypedBytes(SPEC_TYPE_URL, json.dumps(spec, ensure_ascii=False, separators=(",", ":")).encode())


def spec_of(container: Container) -> dict[str, Any]:
    """A record's OCI spec; empty where there is none, or none that is an object."""
    if container.spec is None:
        return {}
    try:
        spec = json.loads(container.spec.value)
    except ValueError:
        return {}
    return cast("dict[str, Any]", spec) if isinstance(spec, dict) else {}


def process_of(container: Container) -> dict[str, Any]:
    """The ``process`` of a record's spec, empty where there is none."""
    process = spec_of(container).get("process")
    return cast("dict[str, Any]", process) if isinstance(process, dict) else {}


def with_extension(container: Container, config: Config) -> Container:
    """The record with the engine's part replaced."""
    return replace(container, extensions={**container.extensions, EXTENSION: pack_config(config)})

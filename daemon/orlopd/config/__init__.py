"""The daemon's configuration: its keys, where it comes from, how it is shown."""

from .load import ConfigError, Loaded, Overrides, load
from .model import Config, GarbageCollection, Grpc
from .plugins import check_section, nearest
from .render import render

__all__ = [
    "Config",
    "ConfigError",
    "GarbageCollection",
    "Grpc",
    "Loaded",
    "Overrides",
    "check_section",
    "load",
    "nearest",
    "render",
]

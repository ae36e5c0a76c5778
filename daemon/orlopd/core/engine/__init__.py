"""The engine: containers made, started, connected to, stopped and removed, for ``orlop.engine.v1``."""

from .context import Context
from .engine import Engine
from .folder import Folders
from .model import (
    ContainerSpec,
    ExecOptions,
    OnCancel,
    PullPolicy,
    Source,
    SourceKind,
    Started,
    State,
    View,
    Window,
)
from .processes import Session
from .run import RunOptions

__all__ = [
    "ContainerSpec",
    "Context",
    "Engine",
    "ExecOptions",
    "Folders",
    "OnCancel",
    "PullPolicy",
    "RunOptions",
    "Session",
    "Source",
    "SourceKind",
    "Started",
    "State",
    "View",
    "Window",
]

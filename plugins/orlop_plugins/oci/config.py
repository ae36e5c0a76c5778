"""What an operator may set for an OCI runtime."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orlopd.plugin import Config


class OciConfig(Config):
    """Section ``[plugins.runtime.<id>]``."""

    binary: str = Field(
        default="", description="The OCI runtime's name or path; the runtime's own name if empty."
    )
    systemd_cgroup: bool = Field(
        default=False, description="Let systemd make the containers' control groups, as scopes."
    )
    cgroup_parent: str = Field(
        default="",
        description="What containers' control groups lie below: a path, or a slice where systemd makes them.",
    )
    systemd_scope: bool = Field(
        default=True, description="Put each shim into a scope of its own where systemd runs."
    )
    shim_deadline: float = Field(
        default=15.0, gt=0, description="Seconds that a shim may take until it serves."
    )
    command_deadline: float = Field(
        default=150.0, gt=0, description="Seconds that a shim may take for one command of the OCI runtime."
    )
    client_stall: float = Field(
        default=10.0, gt=0, description="Seconds that an attached client may keep a container waiting unread."
    )
    fork_server: bool = Field(
        default=True,
        description="Fork shims from a process that has its imports done; else start interpreters.",
    )
    log_format: Literal["cri", "json"] = Field(
        default="cri",
        description="What containers' logs are written in: Kubernetes' format, or Docker's json-file.",
    )
    log_max_size: int = Field(
        default=64 << 20, ge=0, description="Bytes after which a container's log is rotated; 0 for never."
    )
    log_max_files: int = Field(
        default=4, ge=0, description="Rotated files of a container's log that are kept beside it."
    )

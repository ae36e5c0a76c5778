"""Every key of the daemon's configuration, its default and what it is for.

The descriptions are what ``orlopd config default`` prints, so they are written for whoever edits
the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from .paths import default_config_dir, default_root, default_state

MIB = 1024 * 1024

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is not an absolute path")
    return path


def _address(address: str) -> str:
    path = address.removeprefix("unix://")
    if path == address and "://" in address:
        raise ValueError(f"{address!r} is not an address: want unix:///PATH")
    path = path.removeprefix("unix:")
    if not path.startswith("/"):
        raise ValueError(f"{address!r} is not an address: want unix:///PATH with an absolute path")
    return "unix://" + path


def _mode(mode: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", mode):
        raise ValueError(f"{mode!r} is not a mode: want three octal digits, for example '0660'")
    return mode


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Address = Annotated[str, AfterValidator(_address)]
Mode = Annotated[str, AfterValidator(_mode)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Grpc(Section):
    """The gRPC server."""

    max_receive_message_size: int = Field(
        default=16 * MIB, ge=MIB, le=2**31 - 1, description="The largest request message taken, in bytes."
    )
    max_send_message_size: int = Field(
        default=16 * MIB, ge=MIB, le=2**31 - 1, description="The largest response message sent, in bytes."
    )
    reflection: bool = Field(
        default=True, description="Serve gRPC reflection, so that tools can list services and methods."
    )


class GarbageCollection(Section):
    """When content and snapshots that nothing needs any more are deleted."""

    startup_delay: float = Field(
        default=0.1,
        ge=0,
        description=(
            "Seconds from the daemon's start to the first collection that nobody asked for. Until then\n"
            "only what a client asks for and waits for is collected."
        ),
    )
    delay: float = Field(
        default=0.1,
        ge=0,
        description="Seconds from a deletion to the collection after it; one serves many.",
    )
    interval: float = Field(
        default=900.0,
        ge=0,
        description="Seconds between collections without a deletion, for leases that ran out; 0: never.",
    )


class Events(Section):
    """The journal of events, which `orlop events --since` reads."""

    journal_events: int = Field(
        default=100_000, ge=1, description="How many events the journal keeps; the oldest go first."
    )
    journal_bytes: int = Field(
        default=64 * MIB, ge=MIB, description="How many bytes the events in the journal may come to."
    )


class ProxyPlugin(Section):
    """A part that another process serves on a socket, as containerd's config has it."""

    type: str = Field(description="What it is: snapshot, content or diff.")
    address: Address = Field(description="The path of its unix socket.")
    platform: str = Field(default="", description="What it serves, for example linux/amd64.")
    exports: dict[str, str] = Field(
        default_factory=dict[str, str], description="What it says about itself to clients."
    )
    capabilities: list[str] = Field(
        default_factory=list[str],
        description='What it can do beyond the rest; "rebase": a snapshot may get its parent at commit.',
    )

    @property
    def path(self) -> Path:
        """The path of its socket."""
        return Path(self.address.removeprefix("unix://"))


class Config(Section):
    """The daemon."""

    root: AbsolutePath = Field(
        default_factory=default_root,
        description="Folder of what outlives a reboot: content, snapshots, metadata, containers' logs.",
    )
    state: AbsolutePath = Field(
        default_factory=default_state,
        description=(
            "Folder of what a reboot empties: sockets, bundles, pids. Its path must be short:\n"
            "that of a unix socket below it has at most 107 bytes."
        ),
    )
    addresses: list[Address] = Field(
        default_factory=list[str],
        description='Sockets to serve on, as "unix:///PATH". Empty for orlop.sock in the state folder.',
    )
    socket_mode: Mode = Field(default="0660", description="Mode of the sockets, in octal.")
    socket_group: str | int = Field(
        default="",
        description=(
            "Group of the sockets, by name or number: its members may do here what root may.\n"
            'Empty for the group "orlop" where there is one, otherwise the daemon\'s own.'
        ),
    )
    log_level: LogLevel = Field(
        default="info", description="What goes to the log: debug, info, warning or error, and what is worse."
    )
    log_format: LogFormat = Field(
        default="text", description="How a line of the log looks: text for people, json for programs."
    )
    plugin_dirs: list[AbsolutePath] = Field(
        default_factory=lambda: [default_config_dir() / "plugins"],
        description="Folders whose .py files are loaded as plugins, where they exist.",
    )
    disabled_plugins: list[str] = Field(
        default_factory=list[str], description='Plugins not to open, as "snapshotter.overlayfs".'
    )
    required_plugins: list[str] = Field(
        default_factory=list[str],
        description="Plugins without which the daemon is not to start; it goes on without any other.",
    )
    content: str = Field(default="content", description="The content store.")
    content_sharing: Literal["shared", "isolated"] = Field(
        default="shared",
        description=(
            "Whether a namespace may take up a blob that another one has by naming its digest (shared),\n"
            "or must send the bytes to show that it has them (isolated)."
        ),
    )
    discard_unpacked: bool = Field(
        default=False,
        description=(
            "Whether pulls, imports and transfers that do not say drop a layer's blob once it is unpacked:\n"
            "an image then takes its snapshots alone; it is pulled again to be pushed, exported or unpacked\n"
            "elsewhere."
        ),
    )
    snapshotter: str = Field(default="overlayfs", description="The snapshotter where a request names none.")
    runtime: str = Field(
        default="io.containerd.runc.v2", description="The runtime where a request names none."
    )
    differs: list[str] = Field(
        default_factory=list[str],
        description="Differs in the order in which they are asked to handle a layer; others follow.",
    )
    resolvers: list[str] = Field(
        default_factory=list[str],
        description="Resolvers in the order in which they are asked about a reference; others follow.",
    )
    cdi_spec_dirs: list[AbsolutePath] = Field(
        default_factory=lambda: [Path("/etc/cdi"), Path("/var/run/cdi")],
        description=(
            "Folders of CDI specifications, which say what `--device vendor.com/class=name` gives a\n"
            "container. Where two have one device, that of the later folder counts."
        ),
    )
    start_timeout: float = Field(default=30.0, gt=0, description="Seconds that one plugin may take to open.")
    shutdown_timeout: float = Field(
        default=10.0,
        ge=0,
        description="Seconds that calls have to end when the daemon stops, and then plugins to close.",
    )
    grpc: Grpc = Field(default_factory=lambda: Grpc(), description="The gRPC server.")
    gc: GarbageCollection = Field(
        default_factory=lambda: GarbageCollection(),
        description="When content and snapshots that nothing needs any more are deleted.",
    )
    events: Events = Field(
        default_factory=lambda: Events(),
        description="The journal of events, which `orlop events --since` reads.",
    )
    proxy_plugins: dict[str, ProxyPlugin] = Field(
        default_factory=dict[str, ProxyPlugin],
        description=(
            "A section [proxy_plugins.NAME] for each part that another process serves, with its type\n"
            "(snapshot, content or diff) and the address of its socket. It need not be there when the\n"
            "daemon starts."
        ),
    )
    plugins: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict[str, dict[str, dict[str, Any]]],
        description="A section [plugins.KIND.ID] for each plugin, with keys of its own.",
    )

    @property
    def sockets(self) -> list[Path]:
        """The paths of the sockets to serve on."""
        if not self.addresses:
            return [self.state / "orlop.sock"]
        return [Path(address.removeprefix("unix://")) for address in dict.fromkeys(self.addresses)]

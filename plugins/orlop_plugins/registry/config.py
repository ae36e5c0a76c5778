"""The section ``[plugins.resolver.registry]``."""

from __future__ import annotations

from pydantic import Field

from orlopd.plugin import Config


class HostConfig(Config):
    """How to talk to one registry, by the host (and port) that references name."""

    plain_http: bool = False
    """Speak HTTP without TLS. A registry on this machine's loopback needs no word of this."""
    token_hosts: tuple[str, ...] = ()
    """Hosts beside the registry's own domain that may be shown its credentials to get a token."""


class RegistryConfig(Config):
    """Times in seconds."""

    connect_timeout: float = Field(default=10.0, gt=0)
    """For a connection, TLS included."""
    first_byte_timeout: float = Field(default=30.0, gt=0)
    """For the head of an answer."""
    stall_timeout: float = Field(default=30.0, gt=0)
    """For the next bytes of a body; a whole blob may take as long as it likes."""
    retries: int = Field(default=4, ge=0, le=20)
    """Further tries after a broken connection, 429 or 5xx."""
    backoff: float = Field(default=0.25, ge=0)
    """Wait before the first further try; doubles with each."""
    longest_wait: float = Field(default=60.0, ge=0)
    """The most that a registry's Retry-After is heeded; beyond it the call fails at once."""
    commit_timeout: float = Field(default=300.0, gt=0)
    """For a registry to take in what was pushed: it may have to read a large blob once more."""
    upload_chunk: int = Field(default=0, ge=0)
    """The most bytes of a blob that one request pushes; 0 is all of it."""
    host_folders: tuple[str, ...] = ("/etc/orlop/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d")
    """Folders of HOST/hosts.toml files, with mirrors and certificates; the first that knows a host counts."""
    http2: bool = False
    """Offer HTTP/2. Off, because a blob comes faster over a connection of its own."""
    hosts: dict[str, HostConfig] = Field(default_factory=dict)

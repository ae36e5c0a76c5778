"""The enumerations among the values, apart from the dataclasses, which take longer to make."""

from __future__ import annotations

from enum import StrEnum


class BlobKind(StrEnum):
    """The part a blob plays in an image."""

    UNSPECIFIED = "unspecified"
    INDEX = "index"
    MANIFEST = "manifest"
    CONFIG = "config"
    LAYER = "layer"


class BlobState(StrEnum):
    """The states of a blob in a pull and in a push, in their order."""

    UNSPECIFIED = "unspecified"
    WAITING = "waiting"
    FETCHING = "fetching"
    FETCHED = "fetched"
    EXISTS = "exists"
    UNPACKING = "unpacking"
    UNPACKED = "unpacked"
    PUSHING = "pushing"
    PUSHED = "pushed"
    MOUNTED = "mounted"


class Network(StrEnum):
    """The network a container is in: one of its own with loopback alone, or the machine's."""

    NONE = "none"
    HOST = "host"


class MountType(StrEnum):
    """The kinds of mount."""

    BIND = "bind"
    TMPFS = "tmpfs"
    VOLUME = "volume"


class HookStage(StrEnum):
    """When a hook is run; the values are the OCI runtime specification's names."""

    PRESTART = "prestart"
    CREATE_RUNTIME = "createRuntime"
    CREATE_CONTAINER = "createContainer"
    START_CONTAINER = "startContainer"
    POSTSTART = "poststart"
    POSTSTOP = "poststop"


class HealthStatus(StrEnum):
    """Whether what runs in a container works."""

    UNSPECIFIED = "unspecified"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class NamespaceMode(StrEnum):
    """Whose namespace of a kind: the container's or the machine's."""

    UNSPECIFIED = "unspecified"
    PRIVATE = "private"
    HOST = "host"


class ContainerState(StrEnum):
    """How a container is."""

    UNSPECIFIED = "unspecified"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class PullPolicy(StrEnum):
    """When to pull an image that is to be run."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class OnCancel(StrEnum):
    """What giving up a stream does to its process."""

    DETACH = "detach"
    KILL = "kill"


class LogStream(StrEnum):
    """Where a line was written."""

    STDOUT = "stdout"
    STDERR = "stderr"


class ObjectKind(StrEnum):
    """A kind of object that the daemon keeps."""

    UNSPECIFIED = "unspecified"
    BLOB = "blob"
    SNAPSHOT = "snapshot"
    IMAGE = "image"
    CONTAINER = "container"
    LEASE = "lease"
    INGEST = "ingest"


class PluginStatus(StrEnum):
    """How a plugin is."""

    UNSPECIFIED = "unspecified"
    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"

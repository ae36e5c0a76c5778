"""What an image asks of its containers, merged with what a request says."""

from __future__ import annotations

from collections.abc import Sequence

from orlopd.core.manifests import ImageConfig
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Labels, Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Labels that steer a daemon or an orchestrator. An image must not set them (CVE-2026-53488).
RESERVED_LABELS = (
    "containerd.io/",
    "orlop/",
    "orlop.dev/",
    "io.containerd.",
    "io.cri-containerd",
    "nerdctl/",
)
MOST_IMAGE_LABELS = 256


NO_IMAGE = ImageConfig(Platform("linux", ""))


def merge_args(image: ImageConfig, entrypoint: Sequence[str] | None, args: Sequence[str]) -> list[str]:
    """The whole command: as Docker has it, an entrypoint of one's own drops the image's cmd too.

    :raises InvalidArgument: nothing is left to run
    """
    if entrypoint is not None:
        command = [*entrypoint, *args]
    else:
        command = [*image.entrypoint, *(args or image.cmd)]
    if not command or not command[0]:
        raise InvalidArgument(
            "there is nothing to run: no command was given and the image has none",
            reason="NO_COMMAND",
            hint="give a command after the image, for example: sh",
        )
    if any("\0" in arg for arg in command):
        raise InvalidArgument("an argument cannot hold a NUL byte")
    return command


def merge_env(*layers: Sequence[str]) -> list[str]:
    """KEY=VALUE entries, each layer over those before it; a variable keeps its first place.

    :raises InvalidArgument: an entry without a name, or with a NUL byte
    """
    merged: dict[str, str] = {}
    for layer in layers:
        for entry in layer:
            name, equals, value = entry.partition("=")
            if not name or not equals or "\0" in entry:
                raise InvalidArgument(f"malformed environment entry {entry[:80]!r}: want KEY=VALUE")
            merged[name] = value
    return [f"{name}={value}" for name, value in merged.items()]


def usable_env(entries: Sequence[str]) -> list[str]:
    """An image's environment without entries that are none: an image is not worth failing for one."""
    return [entry for entry in entries if "\0" not in entry and entry.find("=") > 0]


def inherited_labels(labels: Labels) -> dict[str, str]:
    """The image's labels that a container may take over: none that steer a daemon, none too long."""
    chosen: dict[str, str] = {}
    for key, value in labels.items():
        if not key or key.startswith(RESERVED_LABELS) or len(key.encode()) + len(value.encode()) > 4096:
            continue
        if len(chosen) < MOST_IMAGE_LABELS:
            chosen[key] = value
    return chosen

"""Specs in a few words, for tests of them."""

from __future__ import annotations

from typing import Any

from orlopd.core.manifests import ImageConfig
from orlopd.core.oci import (
    BuildOptions,
    Rootfs,
    build_spec,
)
from orlopd.core.oci.capabilities import CAPABILITIES
from orlopd.plugin.values import Platform

LINUX = Platform("linux", "amd64")
EVERY = frozenset(CAPABILITIES)


def build(root: Any = None, **options: Any) -> Any:
    options.setdefault("args", ("true",))
    wanted = BuildOptions("ns", "box", **options)
    if root is None:
        return build_spec(wanted, None)
    with Rootfs.open(root) as rootfs:
        return build_spec(wanted, rootfs)


def image(**config: Any) -> ImageConfig:
    return ImageConfig(LINUX, **config)


def mounts(spec: Any) -> dict[str, Any]:
    return {mount["destination"]: mount for mount in spec["mounts"]}

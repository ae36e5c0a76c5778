"""What a shim reads of a bundle's configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from orlopd.plugin.errors import InvalidArgument, NotFound

from .process import program_of

_OF_INTEREST = frozenset({"process", "linux", "args", "namespaces", "type"})


@dataclass(frozen=True, slots=True)
class Facts:
    """What is of interest to a shim.

    :param program: what the main process runs; "" where the configuration does not say
    :param own_pids: whether the container has a pid namespace to itself, so that all its processes end with
        the first
    """

    program: str
    own_pids: bool

    @classmethod
    def of(cls, bundle: Path) -> Self:
        """Those of a bundle.

        :raises NotFound: it has no configuration
        :raises InvalidArgument: that is malformed
        """
        spec = _load(bundle / "config.json")
        namespaces = (spec.get("linux") or {}).get("namespaces") or []
        own_pids = any(
            item.get("type") == "pid" and not item.get("path")
            for item in namespaces
            if isinstance(item, dict)
        )
        return cls(program_of(spec.get("process") or {}), own_pids)


def _load(path: Path) -> dict[str, Any]:
    """As much of a spec as a shim needs: a seccomp profile, once parsed, would stay in memory for good."""

    def slim(item: dict[str, Any]) -> dict[str, Any] | None:
        found = {key: value for key, value in item.items() if key in _OF_INTEREST or key == "path"}
        return found if _OF_INTEREST.intersection(found) else None

    try:
        data = path.read_bytes()
        spec = json.loads(data, object_hook=slim)
        if spec is None and data.lstrip()[:1] == b"{":
            spec = {}
    except FileNotFoundError as error:
        raise NotFound(f"no OCI runtime spec at {str(path)!r}") from error
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"malformed OCI runtime spec at {str(path)!r}: {error}") from error
    if not isinstance(spec, dict):
        raise InvalidArgument(f"malformed OCI runtime spec at {str(path)!r}: want a JSON object")
    return spec

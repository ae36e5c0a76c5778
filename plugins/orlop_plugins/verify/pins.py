"""Digests that images must have, as the config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orlopd.plugin.errors import InvalidArgument, PermissionDenied
from orlopd.plugin.references import parse_reference
from orlopd.plugin.values import Descriptor, check_digest


class Pins:
    """A :class:`orlopd.plugin.verifier.Verifier`.

    :param digests: by full or familiar reference (``alpine:3.20``), by repository without a tag, which is
        about all of its tags (``ghcr.io/team/app``), or by a beginning with ``*`` (``ghcr.io/team/*``). The
        longest that fits counts.
    :param required: refuse what none of them fits
    :raises InvalidArgument: one is malformed
    """

    def __init__(self, digests: Mapping[str, str | Sequence[str]], *, required: bool = False) -> None:
        self._exact: dict[str, frozenset[str]] = {}
        self._prefixes: dict[str, frozenset[str]] = {}
        self._required = required
        for key, value in digests.items():
            allowed = frozenset(check_digest(each) for each in ([value] if isinstance(value, str) else value))
            if key.endswith("*"):
                self._prefixes[key[:-1]] = allowed
            else:
                self._exact[_name(key)] = allowed

    async def verify(self, namespace: str, name: str, target: Descriptor) -> None:
        """See :class:`orlopd.plugin.verifier.Verifier`."""
        allowed = self._allowed(name)
        about = {"resource": f"image {name}", "hint": "see [plugins.verifier.pins] in the daemon's config"}
        if allowed is None:
            if self._required:
                raise PermissionDenied(f"image {name} has no pinned digest", reason="NOT_PINNED", **about)
            return
        if target.digest not in allowed:
            want = " or ".join(sorted(allowed)[:3]) or "none at all"
            raise PermissionDenied(
                f"image {name} is {target.digest}; the config allows {want}", reason="PIN_MISMATCH", **about
            )

    def _allowed(self, name: str) -> frozenset[str] | None:
        for each in (name, name.partition("@")[0], _repository(name)):
            if each in self._exact:
                return self._exact[each]
        fitting = [prefix for prefix in self._prefixes if name.startswith(prefix)]
        return self._prefixes[max(fitting, key=len)] if fitting else None


def _name(key: str) -> str:
    """A key as names are spelled when they are looked up: a repository stays without a tag."""
    reference = parse_reference(key)
    said = key.rpartition("/")[2]
    return reference.name if ":" in said or "@" in said else reference.repository


def _repository(name: str) -> str:
    try:
        return parse_reference(name).repository
    except InvalidArgument:
        return name

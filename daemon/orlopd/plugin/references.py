"""References to images as people write them: ``alpine``, ``ghcr.io/team/app:1.2@sha256:…``.

The grammar is that of Docker's distribution project; a name without a registry is completed as
Docker does it (``alpine`` is ``docker.io/library/alpine:latest``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import InvalidArgument

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library/"
_LONGEST = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")
_HEX_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A complete reference. At least one of ``tag`` and ``digest`` is set."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Host and path, without tag and digest."""
        return f"{self.host}/{self.path}"

    @property
    def name(self) -> str:
        """The full spelling, under which an image is stored."""
        return self.repository + self._suffix

    @property
    def familiar(self) -> str:
        """The shortest spelling that means the same, tag included."""
        if self.host != DEFAULT_HOST:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        return (self.path if "/" in short else short) + self._suffix

    @property
    def object(self) -> str:
        """What a registry is asked for: the digest where there is one, else the tag."""
        return self.digest or self.tag

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_tag(self, tag: str) -> Reference:
        """The same repository under another tag. :raises InvalidArgument: no tag is spelled so"""
        return replace(self, tag=_check_tag(tag, tag), digest="")

    def __str__(self) -> str:
        return self.name


def parse_reference(text: str) -> Reference:
    """Read a reference, completing what a familiar name leaves out.

    :raises InvalidArgument: it is malformed; the message says where (reason MALFORMED_REFERENCE)
    """
    if not text:
        raise _malformed(text, "it is empty")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise _malformed(text, "it contains a space or an unprintable character")
    if "://" in text:
        raise _malformed(text, "it is a URL", hint="leave out the scheme, as in registry.example/app:1.0")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _malformed(text, "what follows '@' is no digest; want sha256: and 64 lowercase hex digits")
    if not rest:
        raise _malformed(text, "there is no name before '@'")
    rest, tag = _split_tag(rest, text)
    host, path = _split_host(rest)
    if not _HOST.fullmatch(host):
        raise _malformed(text, f"{host!r} is no host name")
    if not path:
        raise _malformed(text, "there is no repository after the host")
    if "/" not in rest and _HEX_ID.fullmatch(rest):
        raise _malformed(text, "64 hex digits are an id, not a name")
    for component in path.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise _malformed(text, _what_is_wrong(component))
    if host == DEFAULT_HOST and "/" not in path:
        path = _OFFICIAL + path
    if len(host) + 1 + len(path) > _LONGEST:
        raise _malformed(text, f"the name is longer than {_LONGEST} characters")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(host, path, tag, digest)


def _split_tag(rest: str, text: str) -> tuple[str, str]:
    colon = rest.rfind(":")
    if colon < 0 or "/" in rest[colon:]:
        return rest, ""
    return rest[:colon], _check_tag(rest[colon + 1 :], text)


def _check_tag(tag: str, text: str) -> str:
    if not tag:
        raise _malformed(text, "the tag after ':' is empty")
    if not _TAG.fullmatch(tag):
        raise _malformed(
            text,
            f"{tag!r} is no tag; want up to 128 letters, digits, '_', '.', '-', not starting with '.' or '-'",
        )
    return tag


def _split_host(rest: str) -> tuple[str, str]:
    """The first component is a host when it looks like one; Docker's rule."""
    first, slash, remainder = rest.partition("/")
    if not slash:
        return DEFAULT_HOST, rest
    if not ("." in first or ":" in first or first == "localhost"):
        return DEFAULT_HOST, rest
    return (DEFAULT_HOST if first == "index.docker.io" else first), remainder


def _what_is_wrong(component: str) -> str:
    if not component:
        return "a part between two '/' is empty"
    if component.lower() != component and _COMPONENT.fullmatch(component.lower()):
        return f"{component!r} has uppercase letters; a repository name is lowercase"
    return (
        f"{component!r} is no part of a repository name; "
        "want lowercase letters and digits, joined by '.', '_', '__' or '-'"
    )


def _malformed(text: str, what: str, *, hint: str = "") -> InvalidArgument:
    shown = text if len(text) <= 160 else text[:157] + "..."
    return InvalidArgument(
        f"malformed reference {shown!r}: {what}",
        reason="MALFORMED_REFERENCE",
        hint=hint or "an image is named [HOST[:PORT]/]PATH[:TAG][@DIGEST], all lowercase but host and tag",
    )

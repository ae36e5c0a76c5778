"""Where to ask for a registry's content: the registry itself, or what an administrator put before it.

The folders and files are those of containerd's ``certs.d``: ``HOST/hosts.toml``, or bare certificates as
Docker has them. The daemon's own config and the request come after them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from orlopd.plugin.errors import FailedPrecondition
from orlopd.plugin.values import NO_LABELS

from .hosts import base_urls

CAPABILITIES = frozenset({"pull", "resolve", "push", "referrers"})
_LARGEST = 1 << 20
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust a server, and who to be for it. Paths of PEM files; a pair's key may be ""."""

    authorities: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    skip_verify: bool = False


SYSTEM_TRUST = Tls()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place that serves a registry's repositories.

    :param base: the root of its API; ends with a slash
    :param namespace: the registry it stands for where it is another's mirror, else ""
    :param headers: sent to this place alone
    :param connect_timeout: in seconds; None for the resolver's
    """

    base: httpx.URL
    capabilities: frozenset[str] = CAPABILITIES
    namespace: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_LABELS, repr=False)
    tls: Tls = SYSTEM_TRUST
    connect_timeout: float | None = None

    @property
    def is_mirror(self) -> bool:
        """Whether it is not the registry itself, so that the registry's credentials are none of its."""
        return bool(self.namespace)


def find_endpoints(host: str, plain_http: bool, folders: Sequence[str]) -> Sequence[Endpoint]:
    """The places to ask for what is at ``host``, in order; reads files.

    :param folders: ``certs.d`` folders; the first that has something about the host counts
    :raises FailedPrecondition: a file there is malformed. It is not passed over: it may be what keeps
        requests inside a network.
    """
    folder = next((found for each in folders if (found := _folder_of(Path(each), host))), None)
    if folder is None:
        return _own(host, plain_http)
    file = folder / "hosts.toml"
    try:
        with file.open("rb") as opened:
            text = opened.read(_LARGEST + 1)
    except FileNotFoundError:
        text = b""
    except OSError as error:
        raise _bad(file, (error.strerror or "cannot be read").lower()) from None
    if not text:
        return _own(host, plain_http, tls=_certificates(folder))
    if len(text) > _LARGEST:
        raise _bad(file, f"it is larger than {_LARGEST} bytes")
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise _bad(file, str(error)[:200]) from None
    return _from_document(document, host, plain_http, file)


def _folder_of(root: Path, host: str) -> Path | None:
    name, colon, port = host.rpartition(":")
    spellings = [f"{name}_{port}_"] if colon and name else []
    for each in (*spellings, host, "_default"):
        if (folder := root / each).is_dir():
            return folder
    return None


def _own(host: str, plain_http: bool, **more: Any) -> Sequence[Endpoint]:
    return [Endpoint(base, **more) for base in base_urls(host, plain_http)]


def _from_document(document: dict[str, Any], host: str, plain_http: bool, file: Path) -> Sequence[Endpoint]:
    tables = document.pop("host", {})
    if not isinstance(tables, dict):
        raise _bad(file, "'host' is no table")
    found = [
        Endpoint(_base(name, table, file), namespace=host, **_settings(table, file))
        for name, table in tables.items()
    ]
    server = document.pop("server", "")
    settings = _settings(document, file)
    if not isinstance(server, str):
        raise _bad(file, "'server' is no string")
    if server:
        return [*found, Endpoint(_base(server, document, file), **settings)]
    return [*found, *_own(host, plain_http, **settings)]


def _base(text: str, table: Any, file: Path) -> httpx.URL:
    try:
        url = httpx.URL(text if text.startswith(("http://", "https://")) else f"https://{text}")
    except httpx.InvalidURL:
        url = httpx.URL("")
    if not url.host or url.userinfo or url.query or url.fragment:
        raise _bad(file, f"{text[:120]!r} is no address of a server")
    path = url.path.rstrip("/")
    if not path.endswith("/v2") and not (isinstance(table, dict) and table.get("override_path") is True):
        path += "/v2"
    return url.copy_with(path=f"{path}/")


def _settings(table: Any, file: Path) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise _bad(file, "an entry of 'host' is no table")
    words = {each.lower() for each in _texts(table, "capabilities", file)}
    if unknown := words - CAPABILITIES:
        raise _bad(
            file, f"unknown capability {min(unknown)[:40]!r}; there are {', '.join(sorted(CAPABILITIES))}"
        )
    for key in ("skip_verify", "override_path"):
        if not isinstance(table.get(key, False), bool):
            raise _bad(file, f"{key!r} is neither true nor false")
    folder = file.parent
    authorities = tuple(str(folder / each) for each in _texts(table, "ca", file))
    return {
        "capabilities": frozenset(words) or CAPABILITIES,
        "headers": _headers(table.get("header", {}), file),
        "tls": Tls(authorities, _pairs(table.get("client", []), file), table.get("skip_verify", False)),
        "connect_timeout": _seconds(table.get("dial_timeout", ""), file),
    }


def _texts(table: dict[str, Any], key: str, file: Path) -> Sequence[str]:
    """A list of strings, which a single string may stand for."""
    value: Any = table.get(key, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise _bad(file, f"{key!r} is neither a string nor a list of strings")
    return values


def _pairs(value: Any, file: Path) -> tuple[tuple[str, str], ...]:
    """``client``: a file with both, a list of such, or a list of pairs of certificate and key."""
    found: list[tuple[str, str]] = []
    for each in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
        match each:
            case str():
                found.append((str(file.parent / each), ""))
            case [str() as certificate, str() as key]:
                found.append((str(file.parent / certificate), str(file.parent / key) if key else ""))
            case _:
                raise _bad(
                    file, "'client' is neither a file, nor a list of files, nor a list of pairs of files"
                )
    return tuple(found)


def _headers(value: Any, file: Path) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise _bad(file, "'header' is no table")
    found: dict[str, str] = {}
    for name in value:
        text = ", ".join(_texts(value, name, file))
        if not _HEADER_NAME.fullmatch(name) or not text.isascii() or not text.isprintable():
            raise _bad(file, f"{name[:80]!r} under 'header' cannot be sent")
        found[name] = text
    return found


def _seconds(value: Any, file: Path) -> float | None:
    """A duration as Go writes it: 1m30s."""
    if value == "":
        return None
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise _bad(file, f"'dial_timeout' {str(value)[:40]!r} is no duration like 10s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value)) or None


def _certificates(folder: Path) -> Tls:
    """Certificates lying bare, as Docker has them: NAME.crt to trust, NAME.cert with NAME.key to show."""
    names = sorted(each.name for each in folder.iterdir() if each.is_file())
    pairs: list[tuple[str, str]] = []
    for name in names:
        if name.endswith(".cert"):
            key = f"{name.removesuffix('.cert')}.key"
            pairs.append((str(folder / name), str(folder / key) if key in names else ""))
    return Tls(tuple(str(folder / name) for name in names if name.endswith(".crt")), tuple(pairs))


def _bad(file: Path, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{file} is malformed: {what}",
        reason="BAD_HOSTS_FILE",
        resource=f"file {file}",
        hint="mend it; nothing is asked of this registry until then",
    )

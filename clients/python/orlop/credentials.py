"""Credentials as Docker's tools keep them: ``~/.docker/config.json`` and the helpers that it names.

They are read where the person is, and travel to the daemon with the request that needs them.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from orlop.errors import OrlopError
from orlop.values import Credentials

_DEFAULT_HOST = "docker.io"
_HUB = "https://index.docker.io/v1/"
_HELPER_SECONDS = 60.0
_LARGEST = 1 << 20
_FILE = re.compile(r"[A-Za-z][A-Za-z0-9+-]*:/")
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_TOKEN_USER = "<token>"
_NOT_FOUND = "credentials not found"


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """What a Docker config file says about credentials."""

    path: Path
    auths: Mapping[str, Any]
    helpers: Mapping[str, str]
    store: str = ""

    @classmethod
    def load(cls, path: Path | None = None) -> DockerConfig:
        """Read ``config.json``, by default of $DOCKER_CONFIG or ~/.docker; one that is absent says nothing.

        :raises OrlopError: it is malformed
        """
        folder = os.environ.get("DOCKER_CONFIG") or Path("~/.docker").expanduser()
        path = path or Path(folder, "config.json")
        try:
            with path.open("rb") as file:
                document: Any = json.loads(file.read(_LARGEST))
        except (FileNotFoundError, NotADirectoryError):
            document = {}
        except (OSError, ValueError, RecursionError) as error:
            raise OrlopError(f"{path}: {_reason(error)}", hint="it is to be Docker's config.json") from None
        if not isinstance(document, dict):
            raise OrlopError(f"{path}: it is no JSON object", hint="it is to be Docker's config.json")
        helpers = {
            key: value for key, value in _table(document, "credHelpers").items() if isinstance(value, str)
        }
        store = document.get("credsStore")
        return cls(path, _table(document, "auths"), helpers, store if isinstance(store, str) else "")

    def knows(self, reference: str) -> bool:
        """Whether there may be credentials for the host of a reference; no helper is asked."""
        host = host_of(reference)
        return bool(host) and (bool(self._helper(host)) or self._entry(host) is not None)

    async def find(self, reference: str) -> Credentials | None:
        """The credentials for the host of a reference, or None where there are none.

        :raises OrlopError: the file or the helper's answer is malformed, or the helper fails
        """
        host = host_of(reference)
        if not host:
            return None
        if helper := self._helper(host):
            found = await ask_helper(helper, _HUB if host == _DEFAULT_HOST else host)
            if found is not None or host in self.helpers:
                return found
        entry = self._entry(host)
        return None if entry is None else self._read(host, entry)

    def _helper(self, host: str) -> str:
        for key in (_HUB, host) if host == _DEFAULT_HOST else (host,):
            if key in self.helpers:
                return self.helpers[key]
        return self.store

    def _entry(self, host: str) -> Any:
        for key, entry in self.auths.items():
            if _host_of_key(key) == host and isinstance(entry, dict) and entry:
                return entry
        return None

    def _read(self, host: str, entry: dict[str, Any]) -> Credentials | None:
        if isinstance(token := entry.get("identitytoken"), str) and token:
            return Credentials(username="", secret=token)
        user, secret = entry.get("username"), entry.get("password")
        if isinstance(auth := entry.get("auth"), str) and auth:
            try:
                text = base64.b64decode(auth, validate=True).decode().rstrip("\0")
            except (binascii.Error, ValueError):
                raise OrlopError(f"{self.path}: what it has under auths for {host} is no base64") from None
            user, _, secret = text.partition(":")
        if isinstance(user, str) and isinstance(secret, str) and secret:
            return Credentials(username=user, secret=secret)
        return None


async def find_credentials(reference: str) -> Credentials | None:
    """The credentials that this user's Docker config has for the host of a reference; see `DockerConfig`."""
    return await DockerConfig.load().find(reference)


async def ask_helper(name: str, server: str) -> Credentials | None:
    """Ask ``docker-credential-NAME`` for a server's credentials; None where it has none.

    :raises OrlopError: there is no such program, it fails, or it does not answer
    """
    program = f"docker-credential-{name}"
    if not _HELPER.fullmatch(name) or shutil.which(program) is None:
        raise OrlopError(
            f"credential helper {program[:80]!r} is not installed",
            hint="Docker's config.json names it under credHelpers or credsStore",
        )
    # Already in the pipe when it starts: one that ends without a look at it is no trouble of ours.
    question, end = os.pipe()
    try:
        os.write(end, server.encode())
        os.close(end)
        with anyio.fail_after(_HELPER_SECONDS):
            done = await anyio.run_process([program, "get"], stdin=question, check=False)
    except TimeoutError:
        raise OrlopError(f"{program} did not answer within {_HELPER_SECONDS:g} s") from None
    except OSError as error:
        raise OrlopError(f"{program} cannot be run: {(error.strerror or str(error)).lower()}") from None
    finally:
        os.close(question)
    if done.returncode:
        said = " ".join((done.stdout + b" " + done.stderr).decode(errors="replace").split())
        if _NOT_FOUND in said.lower():
            return None
        raise OrlopError(f"{program} failed for {server}: {said[:200] or f'exit code {done.returncode}'}")
    try:
        answer: Any = json.loads(done.stdout[:_LARGEST])
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, RecursionError, LookupError, TypeError):
        raise OrlopError(f"{program} answered for {server} with something else than credentials") from None
    if not isinstance(user, str) or not isinstance(secret, str) or not secret:
        return None
    return Credentials(username="" if user == _TOKEN_USER else user, secret=secret)


def host_of(reference: str) -> str:
    """The registry that a reference names; Docker's when it names none, "" for a file or directory."""
    if _FILE.match(reference):
        return ""
    first, slash, _ = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return _DEFAULT_HOST if first in ("index.docker.io", "registry-1.docker.io") else first
    return _DEFAULT_HOST


def _host_of_key(key: str) -> str:
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return _DEFAULT_HOST if host in ("index.docker.io", "registry-1.docker.io") else host


def _table(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or "cannot be read").lower()
    return "it is not JSON"

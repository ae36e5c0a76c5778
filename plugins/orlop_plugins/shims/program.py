"""A shim's program: which it is, how it is started, what it answers, how it cleans up.

Follows containerd's runtime v2 contract (core/runtime/v2/README.md of containerd).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from orlop_protos.containerd.runtime.bootstrap.v1 import bootstrap_pb2
from orlop_protos.containerd.task.v3 import shim_pb2
from orlopd.plugin.errors import DeadlineExceeded, FailedPrecondition, NotFound
from orlopd.plugin.values import TypedBytes

PATTERN = r"io\.containerd\.[a-z0-9][a-z0-9-]*\.v[0-9]+|/(?:[^/]+/)*containerd-shim-[^/]+"
"""The names of runtimes that are shims' programs."""

_NAME = re.compile(r"io\.containerd\.([a-z0-9-]+)\.(v[0-9]+)")
_MOST_SAID = 500
_PROTOCOLS = ("ttrpc", "grpc")
_VERSIONS = (2, 3)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a shim serves, in what protocol, which version of the task service."""

    address: str
    protocol: str
    version: int


@dataclass(frozen=True, slots=True)
class Program:
    """A shim's program for one task.

    :param binary: its path
    :param bundle: the task's folder
    :param events: the ttrpc socket that it is to send its events to
    """

    binary: str
    namespace: str
    id: str
    bundle: Path
    events: str

    async def start(self, options: TypedBytes | None, deadline: float) -> Endpoint:
        """Have the program start a shim, which lives on when the program has ended.

        It gets its options alone, as before containerd 2.3. A newer one refuses that and is asked again in
        the newer way; the other order would not do, since an older one may take the newer form for options.

        :raises FailedPrecondition: it failed, or its answer is none
        :raises DeadlineExceeded: it took longer than ``deadline`` seconds
        """
        alone = AnyMessage(type_url=options.type_url, value=options.value) if options else AnyMessage()
        try:
            return endpoint(await self._run("start", alone.SerializeToString(), deadline))
        except FailedPrecondition as error:
            first = error
        params = bootstrap_pb2.BootstrapParams(
            instance_id=self.id,
            namespace=self.namespace,
            containerd_version="orlop",
            containerd_ttrpc_address=self.events,
            containerd_grpc_address=self._address,
            containerd_binary="/bin/true",
        )
        if options is not None and options.value:
            params.extensions.add(value=alone)
        try:
            return endpoint(await self._run("start", params.SerializeToString(), deadline))
        except FailedPrecondition:
            raise first from None

    async def delete(self, deadline: float) -> shim_pb2.DeleteResponse:
        """Have the program clean up after its shim, which is dead; how the container ended.

        :raises FailedPrecondition: it failed
        :raises DeadlineExceeded: it took longer than ``deadline`` seconds
        """
        said = await self._run("delete", b"", deadline)
        try:
            return shim_pb2.DeleteResponse.FromString(said)
        except DecodeError as error:
            raise FailedPrecondition(f"{self.binary} delete answered nonsense: {error}") from error

    @property
    def _address(self) -> str:
        return self.events.removesuffix(".ttrpc")

    async def _run(self, action: str, given: bytes, deadline: float) -> bytes:
        line: Sequence[str] = [
            self.binary,
            "-namespace",
            self.namespace,
            "-address",
            self._address,
            "-publish-binary",
            "/bin/true",
            "-id",
            self.id,
            *(["-bundle", str(self.bundle)] if action == "delete" else []),
            action,
        ]
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "TTRPC_ADDRESS": self.events,
            "GRPC_ADDRESS": self._address,
            "NAMESPACE": self.namespace,
            "MAX_SHIM_VERSION": "2",
            "GOMAXPROCS": "2",
        }
        try:
            with anyio.fail_after(deadline):
                done = await anyio.run_process(line, input=given, cwd=self.bundle, env=env, check=False)
        except TimeoutError:
            raise DeadlineExceeded(f"{self.binary} {action} took longer than {deadline:g} s") from None
        except OSError as error:
            raise FailedPrecondition(f"cannot run the shim {self.binary}: {error.strerror}") from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-_MOST_SAID:]
            raise FailedPrecondition(
                f"{self.binary} {action} failed with {done.returncode}: {said or 'it said nothing'}",
                reason="SHIM_FAILED",
            )
        return done.stdout


def find(runtime: str) -> str:
    """The path of the program that a runtime's name means. Blocks for a moment.

    :raises NotFound: it is not installed
    """
    if runtime.startswith("/"):
        name = runtime
    else:
        parts = _NAME.fullmatch(runtime)
        name = f"containerd-shim-{parts[1]}-{parts[2]}" if parts else runtime
    path = shutil.which(name)
    if path is None:
        raise NotFound(
            f"runtime {runtime!r} not found: there is no program {name}",
            reason="RUNTIME_NOT_FOUND",
            resource=f"runtime {runtime}",
            hint=f"install {name} where the daemon's PATH finds it",
        )
    return path


def endpoint(said: bytes) -> Endpoint:
    """What a shim's program answered to ``start``: a message, a JSON object, or an address alone.

    :raises FailedPrecondition: it is none of these, or of a version that we do not speak
    """
    found = _from_message(said) or _from_json(said) or _from_text(said)
    if found is None or found.protocol not in _PROTOCOLS or found.version not in _VERSIONS:
        shown = said[:100].decode(errors="replace")
        raise FailedPrecondition(f"the shim answered something that is no address: {shown!r}")
    return found


def _from_message(said: bytes) -> Endpoint | None:
    result = bootstrap_pb2.BootstrapResult()
    try:
        result.ParseFromString(said)
    except DecodeError:
        return None
    return Endpoint(_path(result.address), result.protocol, result.version) if result.version else None


def _from_json(said: bytes) -> Endpoint | None:
    try:
        fields = json.loads(said)
        return Endpoint(_path(fields["address"]), str(fields["protocol"]).lower(), int(fields["version"]))
    except (ValueError, TypeError, KeyError):
        return None


def _from_text(said: bytes) -> Endpoint | None:
    try:
        text = said.decode().strip()
    except UnicodeDecodeError:
        return None
    path = _path(text)
    return Endpoint(path, "ttrpc", 2) if path.startswith(("/", "\0")) and "\n" not in path else None


def _path(address: str) -> str:
    """A socket's path; an abstract name begins with NUL."""
    path = address.removeprefix("unix://")
    return "\0" + path[1:] if path.startswith("@") else path

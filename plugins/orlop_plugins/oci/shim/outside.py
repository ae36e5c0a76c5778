"""A shim for a containerd: its command line, its ways of asking and answering. Everything here blocks.

What containerd does: it makes the bundle, starts this program in it with ``start``, and reads from its
standard output where the shim serves. Until 1.6 it wants a bare address, and ttrpc; until 2.2 a JSON object;
from 2.3 on it sends ``BootstrapParams`` and wants a ``BootstrapResult``. For a shim that died it runs
``delete``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from orlop_protos.containerd.runc.v1 import oci_pb2
from orlop_protos.containerd.runtime.bootstrap.v1 import bootstrap_pb2
from orlop_protos.containerd.task.v3 import shim_pb2
from orlopd.plugin.errors import FailedPrecondition, InvalidArgument, Unavailable
from orlopd.plugin.runtime import Stdio

from ..cleanup import Lost, bury, has, story
from ..folder import Folder, Record, check_id
from ..wire import to_timestamp

if TYPE_CHECKING:
    from .serve import Order

MOST_INPUT = 10 << 20
_VERSION = "MAX_SHIM_VERSION"
_TTRPC = "TTRPC_ADDRESS"
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
"""Annotations whose value names the containers that share a shim; the first that is there counts."""
_START_DEADLINE = 30.0
_KILLED = 137


@dataclass(frozen=True, slots=True)
class Call:
    """What containerd's command line says.

    :param address: containerd's own socket; a folder beside it holds those of shims
    :param bundle: the task's folder
    """

    namespace: str
    id: str
    address: str
    bundle: Path


@dataclass(frozen=True, slots=True)
class _Way:
    """How this containerd asked, and so how it wants to be answered."""

    protocol: str
    form: str
    sockets: Path
    publish: str
    options: oci_pb2.Options


def start(call: Call, given: bytes, env: Mapping[str, str]) -> bytes:
    """Start a shim, or find the one that a group of containers shares; the answer for standard output.

    :param given: what came on standard input
    :raises InvalidArgument: what was given makes no sense
    :raises Unavailable: the shim does not serve
    """
    from .serve import Order  # gRPC and all: ``delete`` has little time and no need of it

    check_id("namespace", call.namespace)
    check_id("task id", call.id)
    way = _way(call, given, env)
    group = _group(call.bundle) or call.id
    name = hashlib.sha256("\0".join((call.address, call.namespace, group)).encode()).hexdigest()[:32]
    way.sockets.mkdir(mode=0o711, parents=True, exist_ok=True)
    address = str(way.sockets / name)
    root = Path(way.options.root or Path(call.address).parent / "runc") / call.namespace
    root.mkdir(mode=0o711, parents=True, exist_ok=True)
    Folder(call.bundle).write_record(
        Record(call.namespace, call.id, way.options.binary_name or "runc", str(root), address, Stdio())
    )
    if not _answers(address):
        _launch(
            Order(
                namespace=call.namespace,
                id=call.id,
                bundle=str(call.bundle),
                address=address,
                root=str(root),
                protocol=way.protocol,
                publish=way.publish,
            )
        )
    (call.bundle / "address").write_text(f"unix://{address}")  # where a containerd 1.6 that restarted looks
    return _answer(way, address)


def delete(call: Call) -> bytes:
    """Clean up after a shim that died; a DeleteResponse for standard output."""
    folder = Folder(call.bundle)
    record = folder.read_record()
    if record is None:
        return shim_pb2.DeleteResponse(
            exit_status=_KILLED, exited_at=to_timestamp(datetime.now(UTC))
        ).SerializeToString()
    pid, end, _ = story(folder, record)
    deleted = end is not None and has(folder, "/tasks/delete")
    lost = Lost(pid, end) if end is not None and deleted else bury(folder, record)
    return shim_pb2.DeleteResponse(
        pid=lost.pid, exit_status=lost.end.code, exited_at=to_timestamp(lost.end.at)
    ).SerializeToString()


def _way(call: Call, given: bytes, env: Mapping[str, str]) -> _Way:
    sockets = Path(call.address).parent / "s"
    params = _params(given, call)
    if params is not None:
        options = next((each.value for each in params.extensions), AnyMessage())
        return _Way(
            "grpc",
            "result",
            Path(params.socket_dir) if params.socket_dir else sockets,
            params.containerd_ttrpc_address or env.get(_TTRPC, ""),
            _options(options),
        )
    packed = AnyMessage()
    try:
        packed.ParseFromString(given)
    except DecodeError as error:
        raise InvalidArgument(f"standard input holds no runtime options: {error}") from error
    publish = env.get(_TTRPC) or (f"{call.address}.ttrpc" if call.address else "")
    modern = env.get(_VERSION, "").isdecimal() and int(env[_VERSION]) >= 2
    return _Way(
        "grpc" if modern else "ttrpc", "json" if modern else "bare", sockets, publish, _options(packed)
    )


def _params(given: bytes, call: Call) -> bootstrap_pb2.BootstrapParams | None:
    """The bootstrap parameters, if that is what was given: runtime options may look like them."""
    params = bootstrap_pb2.BootstrapParams()
    try:
        params.ParseFromString(given)
    except DecodeError:
        return None
    mine = (params.instance_id, params.namespace) == (call.id, call.namespace)
    return params if mine else None


def _options(packed: AnyMessage) -> oci_pb2.Options:
    options = oci_pb2.Options()
    if packed.type_url.rpartition("/")[2] == options.DESCRIPTOR.full_name:
        try:
            options.ParseFromString(packed.value)
        except DecodeError as error:
            raise InvalidArgument(f"malformed runtime options: {error}") from error
    return options


def _group(bundle: Path) -> str:
    try:
        with (bundle / "config.json").open() as file:
            spec: Any = json.load(file)
        annotations = spec.get("annotations") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise FailedPrecondition(f"the bundle {bundle} has no readable config.json: {error}") from error
    return next((str(annotations[key]) for key in _GROUPS if annotations.get(key)), "")


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def _launch(order: Order) -> None:
    """Have an interpreter of its own serve, one that outlives this process."""
    from ..launch import environment

    reading, writing = os.pipe2(os.O_CLOEXEC)
    ready, told = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(reading, "rb"), os.fdopen(ready, "rb") as answers:
        with os.fdopen(writing, "wb") as file:
            file.write(order.pack())  # less than a pipe holds
        line = [
            sys.executable,
            "-P",
            "-m",
            "orlop_plugins.oci.shim.main",
            "--order",
            str(reading),
            "--ready",
            str(told),
        ]
        subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(reading, told),
            env=environment(),
            cwd="/",
            check=False,
            timeout=_START_DEADLINE,
        )
        os.close(told)
        said = answers.readline()
    answer: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        answer = json.loads(said)
    if "pid" not in answer:
        why = answer.get("error", "it ended at once")
        raise Unavailable(f"the shim cannot serve: {why}; its log is {order.bundle}/shim.log")


def _answer(way: _Way, address: str) -> bytes:
    if way.form == "result":
        result = bootstrap_pb2.BootstrapResult(version=3, address=address, protocol=way.protocol)
        return result.SerializeToString()
    if way.form == "json":
        return json.dumps({"version": 3, "address": address, "protocol": way.protocol}).encode()
    return f"unix://{address}".encode()

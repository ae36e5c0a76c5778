"""cgroup metrics, as runtimes report them, in the few numbers of ``orlop.engine.v1``."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from orlop_protos.io.containerd.cgroups.v1 import cgroup1_pb2
from orlop_protos.io.containerd.cgroups.v2 import cgroup2_pb2
from orlop_protos.orlop.engine.v1 import containers_pb2
from orlopd.core.engine.top import RunningProcess
from orlopd.plugin.errors import Unimplemented
from orlopd.plugin.values import TypedBytes, now
from orlopd.services.convert import to_timestamp

# What the kernel says for "no limit": the largest number of whole pages, or all ones.
_NO_LIMIT = 1 << 62


def stats(sample: TypedBytes) -> containers_pb2.StatsResponse:
    """What a container uses.

    :raises Unimplemented: the runtime reports something that is no cgroup metrics message
    """
    name = sample.type_url.rpartition("/")[2]
    try:
        if name == "io.containerd.cgroups.v1.Metrics":
            answer = _v1(cgroup1_pb2.Metrics.FromString(sample.value))
        elif name == "io.containerd.cgroups.v2.Metrics":
            answer = _v2(cgroup2_pb2.Metrics.FromString(sample.value))
        else:
            raise Unimplemented(f"the runtime reports its use as {name!r}, which is not known here")
    except DecodeError as error:
        raise Unimplemented(f"the runtime's {name} cannot be read: {error}") from error
    answer.at.CopyFrom(to_timestamp(now()))
    return answer


def process(found: RunningProcess) -> containers_pb2.ContainerProcess:
    """A process of a container."""
    return containers_pb2.ContainerProcess(
        pid=found.pid,
        parent_pid=found.parent_pid,
        inner_pid=found.inner_pid,
        exec_id=found.exec_id,
        uid=found.uid,
        state=found.state,
        cpu_nanos=found.cpu_nanos,
        memory_bytes=found.memory_bytes,
        started_at=to_timestamp(found.started_at),
        name=found.name,
        args=found.args,
    )


def _v1(sample: cgroup1_pb2.Metrics) -> containers_pb2.StatsResponse:
    memory = sample.memory
    moved = {"read": 0, "write": 0}
    for entry in sample.blkio.io_service_bytes_recursive:
        operation = entry.op.lower()
        if operation in moved:
            moved[operation] += entry.value
    return containers_pb2.StatsResponse(
        cpu_nanos=sample.cpu.usage.total,
        memory_bytes=max(memory.usage.usage - memory.total_inactive_file, 0),
        memory_limit=_limit(memory.usage.limit),
        pids=sample.pids.current,
        io_read_bytes=moved["read"],
        io_write_bytes=moved["write"],
    )


def _v2(sample: cgroup2_pb2.Metrics) -> containers_pb2.StatsResponse:
    memory = sample.memory
    return containers_pb2.StatsResponse(
        cpu_nanos=sample.cpu.usage_usec * 1000,
        memory_bytes=max(memory.usage - memory.inactive_file, 0),
        memory_limit=_limit(memory.usage_limit),
        pids=sample.pids.current,
        io_read_bytes=sum(entry.rbytes for entry in sample.io.usage),
        io_write_bytes=sum(entry.wbytes for entry in sample.io.usage),
    )


def _limit(value: int) -> int:
    return 0 if value >= _NO_LIMIT else value

"""One job in a process of its own: confine it, do it, say how it went."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orlopd.plugin.errors import DataLoss, Internal, InvalidArgument, NotFound, OrlopError
from orlopd.plugin.files import explain
from orlopd.plugin.mount import die_with_parent

from .apply import Applier
from .changes import Changes
from .confine import enter, enter_trees, ground
from .headers import TarReader
from .jobs import ApplyJob, DiffJob, Outcome, decode_job, encode_error
from .limits import Limits
from .streams import Raw, Stream
from .tree import Tree, Whiteouts
from .writer import TarWriter

_PURGE_BUDGET = 10  # files that whiteouts may look at, for each entry allowed
_REPORT_SECONDS = 0.1


Work = Callable[[bytes, Sequence[int], Callable[[int], None]], Outcome]
"""Does a job: its line, the descriptors that came along, and whom to tell the bytes done so far."""


def serve(work: Work, parent: int, connection: socket.socket, fds: Sequence[int]) -> None:
    """Do the job that comes on ``connection``. Runs in a fresh fork, and returns when it is done.

    :param parent: the process that forked; if it is gone, so are we
    :param fds: descriptors that came along
    """
    die_with_parent()
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    own = os.pidfd_open(os.getpid())
    socket.send_fds(connection, [b"\n"], [own])
    os.close(own)
    try:
        with connection.makefile("rb") as lines:
            line = lines.readline()
        outcome = work(line, fds, _Reporter(connection))
        answer = {"digest": outcome.digest, "size": outcome.size, "written": outcome.written}
        line = json.dumps({"done": answer}).encode() + b"\n"
    except OrlopError as error:
        line = encode_error(error)
    except OSError as error:
        line = encode_error(explain(error, "unpacking failed"))
    except MemoryError:
        line = encode_error(Internal("unpacking failed: out of memory"))
    except Exception as error:
        # Where, but not from the sources: the file system has another root by now.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
        line = encode_error(Internal(f"unpacking failed: {type(error).__name__} at {where}: {error}"))
    connection.sendall(line)


class _Reporter:
    """Sends progress, but not more often than anybody wants to know."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._next = 0.0

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REPORT_SECONDS
            self._connection.sendall(b'{"progress": %d}\n' % count)


def work(line: bytes, fds: Sequence[int], report: Callable[[int], None]) -> Outcome:
    """Do the job in ``line``."""
    job = decode_job(line)
    if isinstance(job, ApplyJob):
        return _apply(job, fds, report)
    return _diff(job, fds, report)


def _apply(job: ApplyJob, fds: Sequence[int], report: Callable[[int], None]) -> Outcome:
    source = open_blob(job.path, job.digest, fds[0] if fds else -1)
    where = ground(job.mounts, direct=job.whiteouts)
    whole = ["0", "0", "4294967295"]  # user_namespaces(7): the initial one maps every id to itself
    privileged = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == whole
    enter(job.mounts, where, job.scratch)
    tree = Tree(where.whiteouts if job.whiteouts else Whiteouts.NONE, where.lowers)
    applier = Applier(tree, privileged=privileged, budget=_PURGE_BUDGET * job.limits.entries)

    def take(reader: TarReader) -> int:
        applier.run(reader)
        return applier.written

    return consume(source, job.digest, job.limits, report, take)


def open_blob(path: str, digest: str, fd: int) -> int:
    """Open a blob's file; without a path, ``fd`` is where it comes from. :raises NotFound: it is gone"""
    if not path:
        return fd
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"blob {digest} is gone from {path!r}") from error


def consume(
    source: int,
    digest: str,
    limits: Limits,
    report: Callable[[int], None],
    take: Callable[[TarReader], int],
) -> Outcome:
    """Have ``take`` read an archive, to its end; it returns how many bytes of files it wrote.

    :param source: what the blob is read from
    :param digest: what it has to have; empty for anything
    :raises DataLoss: it has another digest, or is corrupt
    """
    raw = Raw(source, digest.partition(":")[0] or "sha256", report)
    stream = Stream(raw, limits)
    try:
        written = take(TarReader(stream, limits))
        diff_id = stream.finish()
    except (DataLoss, InvalidArgument) as error:
        # Damage on the way looks like malice; the digest tells them apart.
        raw.drain()
        _check(digest, raw, error)
        raise
    _check(digest, raw, None)
    return Outcome(diff_id, stream.count, written)


def _check(digest: str, raw: Raw, cause: OrlopError | None) -> None:
    if digest and raw.digest() != digest:
        raise DataLoss(
            f"blob {digest} has {raw.count} bytes of digest {raw.digest()}",
            reason="DIGEST_MISMATCH",
            resource=f"blob {digest}",
            hint="remove the blob and pull again",
        ) from cause


def _diff(job: DiffJob, fds: Sequence[int], report: Callable[[int], None]) -> Outcome:
    # Open what the archive goes to before the root changes; it came as a descriptor.
    archive = TarWriter(fds[0], job.compression, job.newest)
    lower, upper, bare = enter_trees(job.lower, job.upper, job.scratch)
    Changes(lower, upper, bare=bare).write(archive, report)
    return Outcome(archive.close(), archive.count)


def preload() -> None:
    """Import what would be imported on first use: confined workers cannot."""
    import encodings.ascii
    import encodings.idna
    import encodings.latin_1
    import encodings.utf_8  # noqa: F401

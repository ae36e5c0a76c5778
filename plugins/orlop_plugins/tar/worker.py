"""One job in a process of its own: confine it, do it, say how it went."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from orlopd.plugin.errors import DataLoss, Internal, InvalidArgument, NotFound, OrlopError, Unavailable
from orlopd.plugin.files import explain
from orlopd.plugin.mount import die_with_parent

from .apply import Applier
from .changes import Changes
from .confine import enter, enter_trees, ground
from .headers import TarReader
from .jobs import ApplyJob, DiffJob, Outcome, decode_job, encode_error
from .limits import Limits
from .owners import Owners
from .streams import CHUNK, Raw, Stream
from .tree import Tree, Whiteouts
from .writer import TarWriter

_PURGE_BUDGET = 10  # files that whiteouts may look at, for each entry allowed
_REPORT_SECONDS = 0.1


class Reading(Protocol):
    """What a job says of the blob that it reads, see :class:`.jobs.ApplyJob`."""

    @property
    def path(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def arriving(self) -> int: ...

    @property
    def limits(self) -> Limits: ...


Work = Callable[[bytes, Sequence[int], "Link"], Outcome]
"""Does a job: its line, the descriptors that came along, and the link to the daemon."""


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
        link = Link(connection)
        outcome = work(link.line(), fds, link)
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


class Link:
    """This worker's end of the connection to the daemon."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._next = 0.0
        self._there = 0

    def line(self) -> bytes:
        """The next line that the daemon sends; empty when it is gone."""
        return self._lines.readline()

    def report(self, count: int) -> None:
        """Tell the bytes done so far, but not more often than anybody wants to know."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REPORT_SECONDS
            self._connection.sendall(b'{"progress": %d}\n' % count)

    def wait(self, beyond: int) -> int:
        """Wait until more than ``beyond`` bytes of an arriving blob are there; how many there are.

        :raises Unavailable: the daemon is gone
        """
        while self._there <= beyond:
            line = self.line()
            if not line:
                raise Unavailable("the blob does not arrive any more")
            self._there = int(line)
        return self._there


def work(line: bytes, fds: Sequence[int], link: Link) -> Outcome:
    """Do the job in ``line``."""
    job = decode_job(line)
    if isinstance(job, ApplyJob):
        return _apply(job, fds, link)
    return _diff(job, fds, link)


def _apply(job: ApplyJob, fds: Sequence[int], link: Link) -> Outcome:
    source = open_blob(job, fds)
    where = ground(job.mounts, direct=job.whiteouts)
    whole = ["0", "0", "4294967295"]  # user_namespaces(7): the initial one maps every id to itself
    privileged = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == whole
    enter(job.mounts, where, job.scratch)
    tree = Tree(where.whiteouts if job.whiteouts else Whiteouts.NONE, where.lowers)
    owners = Owners(job.uids, job.gids)
    tree.owner = (owners.uid(0), owners.gid(0))
    budget = _PURGE_BUDGET * job.limits.entries
    applier = Applier(tree, privileged=privileged, budget=budget, owners=owners)

    def take(reader: TarReader) -> int:
        applier.run(reader)
        return applier.written

    return consume(source, job, link, take)


def open_blob(job: Reading, fds: Sequence[int]) -> int:
    """Open the blob that a job reads; without a path, it comes by the last descriptor sent along.

    :raises NotFound: it is gone
    """
    if job.arriving:
        # Opened anew: what was sent along has its place in the file in common with the daemon's.
        return os.open(f"/proc/self/fd/{fds[-1]}", os.O_RDONLY | os.O_CLOEXEC)
    if not job.path:
        return fds[-1]
    try:
        return os.open(job.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"blob {job.digest} is gone from {job.path!r}") from error


def consume(source: int, job: Reading, link: Link, take: Callable[[TarReader], int]) -> Outcome:
    """Have ``take`` read an archive, to its end; it returns how many bytes of files it wrote.

    The digest of what comes through a pipe is taken on the way. A file of the content store had its digest
    taken when it came: it is looked at again only where something is wrong with what it unpacks to.

    :param source: what the blob is read from
    :raises DataLoss: it has another digest, or is corrupt
    """
    algorithm = job.digest.partition(":")[0] or "sha256"
    piped = not (job.path or job.arriving)
    arriving = (job.arriving, link.wait) if job.arriving else None
    raw = Raw(source, algorithm if piped else "", link.report, arriving)
    stream = Stream(raw, job.limits)
    try:
        written = take(TarReader(stream, job.limits))
        diff_id = stream.finish()
    except (DataLoss, InvalidArgument) as error:
        # Damage on the way looks like malice; the digest tells them apart. Of what arrives its fetch tells.
        if piped:
            raw.drain()
            _check(job, raw.digest(), raw.count, error)
        elif not job.arriving:
            _check(job, *_digest_of(source, algorithm), error)
        raise
    if piped:
        _check(job, raw.digest(), raw.count, None)
    elif not job.arriving and not stream.compressed and algorithm == "sha256":
        _check(job, diff_id, raw.count, None)
    return Outcome(diff_id, stream.count, written)


def _digest_of(file: int, algorithm: str) -> tuple[str, int]:
    digest, count = hashlib.new(algorithm), 0
    while data := os.pread(file, CHUNK, count):
        digest.update(data)
        count += len(data)
    return f"{algorithm}:{digest.hexdigest()}", count


def _check(job: Reading, digest: str, count: int, cause: OrlopError | None) -> None:
    if job.digest and digest != job.digest:
        raise DataLoss(
            f"blob {job.digest} has {count} bytes of digest {digest}",
            reason="DIGEST_MISMATCH",
            resource=f"blob {job.digest}",
            hint="remove the blob and pull again",
        ) from cause


def _diff(job: DiffJob, fds: Sequence[int], link: Link) -> Outcome:
    # Open what the archive goes to before the root changes; it came as a descriptor.
    archive = TarWriter(fds[0], job.compression, job.newest)
    lower, upper, bare = enter_trees(job.lower, job.upper, job.scratch)
    Changes(lower, upper, bare=bare).write(archive, link.report)
    return Outcome(archive.close(), archive.count)


def preload() -> None:
    """Import what would be imported on first use: confined workers cannot."""
    import encodings.ascii
    import encodings.idna
    import encodings.latin_1
    import encodings.utf_8  # noqa: F401

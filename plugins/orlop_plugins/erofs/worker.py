"""One archive to one image, in a process that can reach nothing else.

Run as a program it is the process that forks such workers, see :mod:`orlop_plugins.tar.zygote`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from orlop_plugins.tar.confine import lock_into, own_namespace
from orlop_plugins.tar.headers import TarReader
from orlop_plugins.tar.jobs import Outcome
from orlop_plugins.tar.worker import Link, consume, open_blob
from orlop_plugins.tar.zygote import main
from orlopd.plugin.mount import die_with_parent, mount
from orlopd.plugin.values import Mount

from .jobs import decode_job
from .nodes import Marks
from .unpack import Unpacker

_NOBODY = 65534


def work(line: bytes, fds: Sequence[int], link: Link) -> Outcome:
    """Do the job in ``line``. Raises as :meth:`.unpack.Unpacker.run`, and DataLoss."""
    job = decode_job(line)
    source = open_blob(job, fds)
    image = fds[0]
    # Not an empty one: ext4 would take it for a file that is written anew, and write it out at its close.
    if os.fstat(image).st_size:
        os.ftruncate(image, 0)
    lock_in(job.scratch)
    unpacker = Unpacker(image, job.limits, Marks.of(userxattr=job.userxattr))

    def take(reader: TarReader) -> int:
        unpacker.run(reader)
        return unpacker.written

    return consume(source, job, link, take)


def lock_in(scratch: str) -> None:
    """Leave this process with its descriptors: an empty root that cannot be written, and nobody's rights."""
    own_namespace()
    mount(Mount("tmpfs", "tmpfs", ("ro", "nosuid", "nodev", "noexec", "size=4k", "mode=0555")), scratch)
    lock_into(scratch)
    with contextlib.suppress(PermissionError):  # in a user namespace there may be no nobody
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    die_with_parent()  # the kernel forgets that where an identity changes


if __name__ == "__main__":
    main(work)

"""The process that forks workers: small, single-threaded, with its imports done.

The daemon must not fork itself, since gRPC has threads there. Each packet on the control socket brings a
connection for one worker and perhaps another descriptor for its data. When the daemon goes the control socket
ends; this process ends then, and its workers with it.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from .worker import Work, preload, serve, work

_FDS = 4


def main(work: Work) -> None:
    """``python -m MODULE FD``: serve the control socket ``FD``, forking workers that do ``work``."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's; the daemon decides
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers: the kernel reaps them
    preload()
    gc.collect()
    gc.freeze()
    me = os.getpid()
    while True:
        packet, fds, _, _ = socket.recv_fds(control, 1, _FDS, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return
        if os.fork() == 0:
            _child(work, me, control, fds)
        for fd in fds:
            os.close(fd)


def _child(work: Work, parent: int, control: socket.socket, fds: list[int]) -> None:
    code = 1
    try:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        serve(work, parent, socket.socket(fileno=fds[0]), fds[1:])
        code = 0
    finally:
        # Nothing of the parent's may run here: no exit handlers, no flushing of its buffers.
        os._exit(code)


if __name__ == "__main__":
    main(work)

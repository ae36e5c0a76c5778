"""The fork server: a process that has imported everything a shim needs, and forks a shim when asked.

It is one of the daemon's children and ends with it (when its socket does); the shims are neither's. gRPC must
not have started before a fork, so this process serves nothing: it reads orders from a socket pair, one for
each message, with the descriptor for the answer attached.
"""

from __future__ import annotations

import gc
import os
import socket
import sys

_MAX_ORDER = 64 << 10


def run(control: socket.socket) -> None:
    """Fork shims until the other side of ``control`` is closed."""
    from . import pages, rehearsal
    from .serve import Order, prepare, serve

    prepare()
    rehearsal.play()
    gc.collect()
    pages.fill_holes()
    gc.freeze()  # what is there now is shared with every shim: the collector must not touch it
    while True:
        data, fds, _, _ = socket.recv_fds(control, _MAX_ORDER, 4)
        if not data:
            return
        child = os.fork()
        if child:
            for fd in fds:
                os.close(fd)
            os.waitpid(child, 0)
            continue
        # The middle process ends at once, so that the shim belongs to init.
        try:
            control.close()
            os.setsid()
            if os.fork() == 0:
                gc.enable()
                serve(Order.unpack(data), fds[0])
        finally:
            os._exit(0)


def main() -> None:
    """``python -m orlop_plugins.oci.shim.zygote FD LABEL``; the label is for whoever reads ps"""
    gc.disable()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)
        run(control)


if __name__ == "__main__":
    main()

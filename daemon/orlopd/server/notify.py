"""Telling the service manager how the daemon is (sd_notify(3))."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> None:
    """Send lines such as ``READY=1`` to the manager that started this process, if one did."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.settimeout(1)
        try:
            manager.sendto("\n".join(lines).encode(), address)
        except OSError:
            # A manager that does not listen is no reason not to serve.
            return

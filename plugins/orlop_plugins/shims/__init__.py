"""Runtimes that are programs of others: any shim that containerd could use, found by the runtime's name.

``io.containerd.kata.v2`` is the program ``containerd-shim-kata-v2``; a path names itself. Such a shim speaks
ttrpc or gRPC, keeps the container's processes, and is told where to send its events.
"""

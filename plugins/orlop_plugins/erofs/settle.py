"""Fitting a layer's tree to the layers below it, as :func:`orlopd.plugin.rebase.settle` does a directory."""

from __future__ import annotations

import os
import stat

from orlopd.plugin.rebase import Below

from .nodes import Marks, Node, directories, whiteout

_OVERLAY = (b"trusted.overlay.", b"user.overlay.")


def is_plain(root: Node, marks: Marks) -> bool:
    """Whether there are no marks but perhaps on the root's attributes."""
    if root.has(marks.opaque):
        return False
    for node, _ in directories(root):
        assert node.entries is not None
        if node is not root and node.has(marks.implied):
            return False
        if any(child.is_whiteout for child in node.entries.values()):
            return False
    return True


def settle_root(root: Node, below: Below, marks: Marks) -> None:
    """Do it where there are no marks but on the root's attributes."""
    root.take(marks.plain)
    if root.take(marks.implied):
        _inherit(root, below, b"")


def settle(root: Node, below: Below, marks: Marks) -> None:
    """Drop marks that hide nothing, since overlay would list them as files; carry out those on the root,
    where overlay does not look at them; give implied directories their attributes."""
    root.take(marks.plain)
    hides_all = root.take(marks.opaque)
    needless: list[tuple[dict[bytes, Node], bytes, Node]] = []
    # A directory, the one it is in; its path from the top; whether one above it hides all there is below.
    pending = [(root, root, b"", False)]
    while pending:
        node, parent, path, closed = pending.pop()
        assert node.entries is not None
        assert parent.entries is not None
        if node.take(marks.implied) and (not _inherit(node, below, path) or closed) and path:
            needless.append((parent.entries, path.rpartition(b"/")[2], node))
        closed = closed or (node.has(marks.opaque) if path else hides_all)
        for name, child in sorted(node.entries.items()):
            inner = path + b"/" + name if path else name
            if child.entries is not None:
                pending.append((child, node, inner, closed))
            elif child.is_whiteout and (closed or not below.has(inner)):
                del node.entries[name]
    for entries, name, node in reversed(needless):
        if not node.entries:  # it was there for whiteouts only
            del entries[name]
    if hides_all:
        assert root.entries is not None
        for each in sorted(map(os.fsencode, below.top_names())):
            child = root.entries.setdefault(each, whiteout())
            if child.entries is not None:
                child.set(marks.opaque)


def _inherit(node: Node, below: Below, path: bytes) -> bool:
    folder = below.directory(path)
    if folder is None:
        return False
    info = os.fstat(folder.fd)
    node.uid, node.gid, node.mtime_ns = info.st_uid, info.st_gid, info.st_mtime_ns
    node.mode = stat.S_IFDIR | stat.S_IMODE(info.st_mode)
    for name in map(os.fsencode, os.listxattr(folder.fd)):
        if not name.startswith(_OVERLAY):
            node.set(name, os.getxattr(folder.fd, name))
    return True

"""Write orlop/sync.pyi: the types of the sync face, which has no code of its own for each method.

`python clients/python/sync_stub.py` writes it, `--check` only compares: exit code 1 when it is out of date.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "orlop"
STUB = PACKAGE / "sync.pyi"
CLASSES = {
    "_session": "Session",
    "_images": "Images",
    "_containers": "Containers",
    "_shims": "Shims",
    "_system": "System",
    "_volumes": "Volumes",
}
RENAMED = {"__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__"}
HEAD = """\
# Written by clients/python/sync_stub.py from the async API; a test sees to it that it is up to date.

from collections.abc import Callable, Generator, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from orlop import values

"""
TAIL = """
class SyncClient:
    images: Images
    containers: Containers
    shims: Shims
    system: System
    volumes: Volumes

    @property
    def address(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

def connect(
    address: str | None = None, *, namespace: str | None = None, timeout: float = ...
) -> SyncClient: ...
"""


class Synchronous(ast.NodeTransformer):
    """Turns the async types in an annotation into their ordinary fellows."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "AsyncGenerator":
            item = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
            return ast.parse(f"Generator[{ast.unparse(item)}]", mode="eval").body
        if isinstance(node.value, ast.Name) and node.value.id == "AsyncIterable":
            node.value.id = "Iterable"
        return node


def method(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A method's line in the stub."""
    arguments = function.args
    # A default that is a name of the module would need that module here.
    arguments.defaults = [ast.Constant(...) for _ in arguments.defaults]
    arguments.kw_defaults = [default and ast.Constant(...) for default in arguments.kw_defaults]
    Synchronous().visit(arguments)
    returns = Synchronous().visit(function.returns) if function.returns else ast.Constant(None)
    name = RENAMED.get(function.name, function.name)
    return f"    def {name}({ast.unparse(arguments)}) -> {ast.unparse(returns)}: ..."


def attributes(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The public attributes that __init__ sets, with their types."""
    found: list[str] = []
    for node in function.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Attribute) or target.attr.startswith("_"):
            continue
        if isinstance(node, ast.AnnAssign):
            kind = ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            kind = type(node.value.value).__name__
        else:
            continue
        found.append(f"    {target.attr}: {kind}")
    return found


def stub() -> str:
    """The whole stub."""
    parts = [HEAD]
    for module, name in CLASSES.items():
        tree = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))
        [cls] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        lines = [f"class {name}:"]
        for node in cls.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name == "__init__":
                lines += attributes(node)
            elif node.name in RENAMED or not node.name.startswith("_"):
                lines.append(method(node))
        parts.append("\n".join(lines) + "\n\n")
    return "".join(parts).rstrip("\n") + "\n" + TAIL


def main() -> int:
    """Write the stub, or with --check compare it."""
    wanted = stub()
    if "--check" in sys.argv[1:]:
        # As trees: how the lines are broken is the formatter's business.
        return 0 if ast.dump(ast.parse(STUB.read_text("utf-8"))) == ast.dump(ast.parse(wanted)) else 1
    STUB.write_text(wanted, "utf-8")
    return subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", STUB], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

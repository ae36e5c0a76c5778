"""Generate the package ``orlop_protos`` from the .proto files beside this file.

protoc writes absolute imports (``from containerd.types import mount_pb2``), which would need every top folder
of the contract to be a package of its own on the import path. They are made relative, so that all of it lives
in one package.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "orlop_protos"
OUTPUT = "python"
MADE_OF = "made-of"
"""The file in the package that tells which .proto files it was generated from, by :func:`fingerprint`."""
DOCSTRING = (
    '"""Generated stubs of Orlop\'s gRPC contract; see the .proto files for what each of them means."""\n'
)


class StubsHook(BuildHookInterface[Any]):
    """Generates the stubs before a wheel, editable or not, is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        with tempfile.TemporaryDirectory(prefix="orlop-protos-") as scratch:
            fresh = Path(scratch) / PACKAGE
            generate(root, fresh)
            replace_changed(fresh, root / OUTPUT / PACKAGE)


def generate(root: Path, package: Path) -> None:
    """Write the whole package for the .proto files under ``root`` into the new folder ``package``."""
    from grpc_tools import protoc

    protos = sources(root)
    package.mkdir(parents=True)
    arguments = [
        "protoc",
        f"-I{root}",
        f"-I{importlib.resources.files('grpc_tools') / '_proto'}",
        f"-I{googleapis()}",
        f"--plugin=protoc-gen-mypy={script('protoc-gen-mypy')}",
        f"--plugin=protoc-gen-mypy_grpc={script('protoc-gen-mypy_grpc')}",
        f"--python_out={package}",
        f"--grpc_python_out={package}",
        f"--mypy_out=quiet:{package}",
        f"--mypy_grpc_out=quiet:{package}",
        *protos,
    ]
    if protoc.main(arguments) != 0:
        raise RuntimeError("protoc failed, see its messages above")
    tops = {proto.split("/", 1)[0] for proto in protos}
    for file in [*package.rglob("*.py"), *package.rglob("*.pyi")]:
        depth = len(file.relative_to(package).parts)
        file.write_text(relative_imports(file.read_text("utf-8"), tops, depth), "utf-8")
    for folder in [package, *(p for p in package.rglob("*") if p.is_dir())]:
        (folder / "__init__.py").write_text(DOCSTRING if folder == package else "", "utf-8")
    (package / "py.typed").touch()
    (package / MADE_OF).write_text(fingerprint(root) + "\n", "utf-8")


def sources(root: Path) -> list[str]:
    """The names of the .proto files under ``root``, sorted."""
    found = (path.relative_to(root) for path in root.rglob("*.proto"))
    return sorted(path.as_posix() for path in found if path.parts[0] != OUTPUT)


def fingerprint(root: Path) -> str:
    """A digest of the .proto files under ``root`` and their names."""
    whole = hashlib.sha256()
    for name in sources(root):
        whole.update(f"{hashlib.sha256((root / name).read_bytes()).hexdigest()} {name}\n".encode())
    return whole.hexdigest()


def relative_imports(source: str, tops: set[str], depth: int) -> str:
    """Make ``from TOP.x import y`` relative, for a module ``depth`` levels below the package's parent."""
    names = "|".join(sorted(map(re.escape, tops)))
    source = re.sub(
        rf"^(\s*)from ((?:{names})(?:\.\w+)*) import ",
        rf"\1from {'.' * depth}\2 import ",
        source,
        flags=re.MULTILINE,
    )
    if found := re.search(rf"^\s*import (?:{names})\.[\w.]+.*$", source, flags=re.MULTILINE):
        raise RuntimeError(f"an import that cannot be made relative: {found[0]!r}")
    return source


def googleapis() -> Path:
    """The import root that holds google/rpc/status.proto, from the package googleapis-common-protos."""
    spec = importlib.util.find_spec("google.rpc")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "status.proto").exists():
            return Path(folder).parents[1]
    raise RuntimeError("google/rpc/status.proto not found: is googleapis-common-protos installed?")


def script(name: str) -> str:
    """The path of a protoc plugin installed for this interpreter."""
    folders = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    found = shutil.which(name, path=":".join(folders)) or shutil.which(name)
    if not found:
        raise RuntimeError(f"{name} not found: is mypy-protobuf installed?")
    return found


def replace_changed(fresh: Path, target: Path) -> None:
    """Make ``target`` equal to ``fresh``, touching only what differs: others may be importing from it."""
    wanted = {p.relative_to(fresh) for p in fresh.rglob("*") if p.is_file()}
    for name in wanted:
        new, old = fresh / name, target / name
        if old.exists() and old.read_bytes() == new.read_bytes():
            continue
        old.parent.mkdir(parents=True, exist_ok=True)
        beside = old.with_name(old.name + ".new")
        shutil.copyfile(new, beside)
        beside.replace(old)
    for old in [p for p in target.rglob("*") if p.is_file()]:
        if old.relative_to(target) not in wanted and "__pycache__" not in old.parts:
            old.unlink()
    for folder in sorted((p for p in target.rglob("*") if p.is_dir()), reverse=True):
        if folder.name != "__pycache__" and not any(p.name != "__pycache__" for p in folder.iterdir()):
            shutil.rmtree(folder)

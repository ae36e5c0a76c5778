"""The generated stubs: all of them importable, and nothing of the contract outside their one package."""

import importlib
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import orlop_protos
from tests.support.stubs import PROTOS, stale

MODULES = [m.name for m in pkgutil.walk_packages(orlop_protos.__path__, "orlop_protos.") if not m.ispkg]


@pytest.mark.parametrize("name", MODULES)
def test_module_imports(name: str) -> None:
    importlib.import_module(name)


def test_every_package_of_the_contract_is_there() -> None:
    tops = {name.split(".")[1] for name in MODULES}
    assert tops == {"containerd", "io", "orlop", "runtime", "runtimeoptions", "ttrpc"}


def test_stubs_of_another_contract_are_told(tmp_path: Path) -> None:
    protos = tmp_path / "protos"
    shutil.copytree(PROTOS, protos, ignore=shutil.ignore_patterns("*.py", "*.pyi", "__pycache__"))
    shutil.copy(PROTOS / "hatch_build.py", protos)
    assert stale(protos) == ""
    changed = protos / "orlop/engine/v1/system.proto"
    text = changed.read_text()
    changed.write_text(f"{text}// more\n")
    assert stale(protos).endswith("are not of the .proto files beside them: run script/bootstrap --test")
    changed.write_text(text)
    assert stale(protos) == ""
    changed.rename(changed.with_name("other.proto"))
    assert stale(protos) != ""


def test_imports_stay_inside_the_package() -> None:
    code = (
        "import sys, orlop_protos.containerd.services.tasks.v1.tasks_pb2_grpc\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('containerd', 'runtime')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

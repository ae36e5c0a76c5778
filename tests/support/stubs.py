"""Whether the generated stubs are those of the contract as it stands."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

PROTOS = Path(__file__).parents[2] / "protos"


def stale(protos: Path = PROTOS) -> str:
    """What to say of stubs that were generated from other .proto files; "" where they were from these."""
    build = _build(protos)
    note = protos / build.OUTPUT / build.PACKAGE / build.MADE_OF
    if note.exists() and note.read_text().strip() == build.fingerprint(protos):
        return ""
    return f"the stubs in {note.parent} are not of the .proto files beside them: run script/bootstrap --test"


def _build(protos: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", protos / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""What the SDK and the plugin API offer as values can be looked into by libraries that go by type hints."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, get_type_hints

import pytest

NOT_OFFERED = "orlop.cli"


def modules(package: str) -> Iterator[ModuleType]:
    """A package and all that is in it, its programs apart."""
    top = import_module(package)
    yield top
    for each in pkgutil.walk_packages(top.__path__, f"{package}."):
        if not each.name.startswith(NOT_OFFERED) and not each.name.endswith("__main__"):
            yield import_module(each.name)


def dataclasses_of(package: str) -> list[Any]:
    """The public ones, by where they are defined."""
    found = {
        f"{value.__module__}.{name}": value
        for module in modules(package)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__.startswith(package)
    }
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize(("package", "one"), [("orlop", "ImageConfig"), ("orlopd.plugin", "TaskSpec")])
def test_the_types_of_every_values_fields_can_be_resolved(package: str, one: str) -> None:
    values = dataclasses_of(package)
    assert one in {value.__name__ for value in values}
    for value in values:
        hints = get_type_hints(value)
        assert {field.name for field in dataclasses.fields(value)} <= set(hints), value

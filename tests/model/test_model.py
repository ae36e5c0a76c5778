"""The storage does what an in-memory model of it does, whatever comes in whatever order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model import faults
from tests.model.machine import Rig, StorageMachine
from tests.model.rig import rig

PROVE = bool(os.environ.get("ORLOP_PROVE"))
EXAMPLES = 2000 if PROVE else 15
FAULT_EXAMPLES = 2000 if PROVE else 100
STEPS = 60


def _settings(examples: int, *, shrink: bool = True) -> settings:
    return settings(
        max_examples=examples,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        stateful_step_count=STEPS,
        # In the tests the same examples every time; in full those of the seed that script/prove prints.
        derandomize=not PROVE,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        report_multiple_bugs=False,
    )


class Caught(BaseException):
    """A planted fault showed. Not an Exception, so that Hypothesis does not look for a shorter way to it."""


@pytest.fixture(scope="module", params=["isolated", "shared"])
def shared_rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rig(request.param) as running:
        yield running


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, Path]]:
    """A daemon in which faults can be planted, and where."""
    place = tmp_path_factory.mktemp("faults") / "s"
    with rig("isolated", {"faults.py": faults.drop_in(place)}) as running:
        yield running, place


def machine(running: Rig, **attributes: object) -> type[StorageMachine]:
    """The machine over a daemon, with statistics of its own."""
    return type("Storage", (StorageMachine,), {"rig": running, "statistics": {}, **attributes})


@pytest.mark.timeout(3600)
def test_the_daemon_and_the_model_never_differ(shared_rig: Rig) -> None:
    under_test = machine(shared_rig)
    run_state_machine_as_test(under_test, settings=_settings(EXAMPLES))
    print(f"calls compared: {sum(under_test.statistics.values())}: {under_test.statistics}")  # noqa: T201
    assert len(under_test.statistics) > 30, "every kind of call was made"


@pytest.mark.timeout(3600 if PROVE else 300)
@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_planted_fault_is_caught(faulty: tuple[Rig, Path], name: str) -> None:
    running, place = faulty
    # In full with every rule there is; in the tests with those that come upon this fault soon.
    left_out = set() if PROVE else rules(StorageMachine) - set(faults.RULES[name])
    assert set(faults.RULES[name]) <= rules(StorageMachine)
    attributes = {"difference": Caught, **dict.fromkeys(left_out)}
    faults.plant(place, name)
    try:
        with pytest.raises(Caught) as caught:
            run_state_machine_as_test(
                machine(running, **attributes), settings=_settings(FAULT_EXAMPLES, shrink=False)
            )
    finally:
        faults.plant(place, "")
    print(f"{name}: {caught.value}")  # noqa: T201


def rules(under_test: type[StorageMachine]) -> set[str]:
    """The names of a machine's rules."""
    return {name for name, each in vars(under_test).items() if hasattr(each, "hypothesis_stateful_rule")}

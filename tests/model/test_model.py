"""The storage does what an in-memory model of it does, whatever comes in whatever order."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture import engine
from hypothesis.stateful import run_state_machine_as_test

from tests.model import faults
from tests.model.machine import StorageMachine
from tests.model.rig import Rig, rig

PROVE = bool(os.environ.get("ORLOP_PROVE"))
SEED = int(os.environ.get("ORLOP_SEED") or 1)
"""The same walks every time; in full, those of the seed that script/prove draws and prints."""

WALKS = int(os.environ.get("ORLOP_WALKS") or (2000 if PROVE else 10))
BATCH = 100
"""So many walks have one seed; those after them have the next."""
APART = 1000
"""So far apart are the seeds of the two policies, so that they do not walk the same ways."""
MOST_MINUTES = float(os.environ.get("ORLOP_WALK_MINUTES") or 90)
"""After so many no further batch is begun; how many walks were made is printed."""
FAULTY_WALKS = 2000 if PROVE else 100
STEPS = 60
SHRINKING = 45
"""Seconds to look for a shorter way to a difference."""

A_FEW = {
    "a_reference_to_content_is_skipped": 1,
    "a_flat_lease_holds_the_tree": 2,
    "a_mask_of_content_is_widened": 7,
    "bytes_are_left_behind": 1,
}
"""The faults that the tests plant, each with a seed that soon comes upon it; script/prove plants all."""


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


def walk(
    running: Rig, walks: int, number: int = SEED, *, shrink: bool = True, **attributes: object
) -> dict[str, int]:
    """Walk over a daemon; how often what was compared."""
    machine = type(
        "Storage", (StorageMachine,), {"rig": running, "statistics": {}, "found": [], **attributes}
    )
    began = time.monotonic()
    try:
        run_state_machine_as_test(
            seed(number)(machine),
            settings=settings(
                max_examples=walks,
                phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
                stateful_step_count=STEPS,
                database=None,
                deadline=None,
                suppress_health_check=[
                    HealthCheck.too_slow,
                    HealthCheck.data_too_large,
                    HealthCheck.filter_too_much,
                ],
                report_multiple_bugs=False,
            ),
        )
    finally:
        seconds = time.monotonic() - began
        _say(f"ORLOP_SEED={number}: {machine.statistics.get('walks', 0)} walks in {seconds:.0f} s")
        if shrink and machine.found:
            _say(f"the first difference, before a shorter way was looked for: {machine.found[0]}")
    return machine.statistics


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


@pytest.mark.timeout(7200 if PROVE else 400)
def test_the_daemon_and_the_model_never_differ(shared_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SHRINKING_SECONDS", SHRINKING)
    made: Counter[str] = Counter()
    ends = time.monotonic() + 60 * MOST_MINUTES
    for number, left in enumerate(range(WALKS, 0, -BATCH)):
        if time.monotonic() < ends:
            made.update(walk(shared_rig, min(left, BATCH), SEED + number + APART * shared_rig.sharing))
    _say(f"{made.pop('walks')} walks, {sum(made.values())} calls compared: {dict(made)}")
    assert len(made) > 50, "every kind of call was made"


@pytest.mark.timeout(3600 if PROVE else 300)
@pytest.mark.parametrize("name", faults.FAULTS if PROVE else A_FEW)
def test_a_planted_fault_is_caught(faulty: tuple[Rig, Path], name: str) -> None:
    running, place = faulty
    # In full with every rule there is; in the tests with those that come upon this fault soon.
    assert set(faults.RULES[name]) <= rules()
    left_out: set[str] = set() if PROVE else rules() - set(faults.RULES[name])
    attributes: dict[str, Any] = {"difference": Caught, **dict.fromkeys(left_out)}
    faults.plant(place, name)
    try:
        with pytest.raises(Caught) as caught:
            walk(running, FAULTY_WALKS, SEED if PROVE else A_FEW[name], shrink=False, **attributes)
    finally:
        faults.plant(place, "")
    _say(f"caught {name}: {str(caught.value).partition('; after')[0]}")


def rules() -> set[str]:
    """The names of the machine's rules."""
    return {name for name, each in vars(StorageMachine).items() if hasattr(each, "hypothesis_stateful_rule")}

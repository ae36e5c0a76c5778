"""The real ``ctr`` says of our daemon what it says of the real containerd."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.ctr_scenario import Step, play_with_events
from tests.support.containerd import containerd
from tests.support.daemon import Daemon
from tests.support.images import save_archive

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("ctr-parity")]

# Of these every word counts; of the others the exit code and the kind of error.
WORD_BY_WORD = re.compile(
    r"version|events|the |(namespaces|images|content|snapshots|containers|tasks|leases) "
    r"(ls|import|tag|rm|export|check|get|usage|tree|info|ps|metrics|mount|label|prepare|pause|resume|delete|exec)"
    r"|run "
)
KINDS = (
    "not found",
    "already exists",
    "invalid argument",
    "failed precondition",
    "unavailable",
    "not implemented",
    "unsupported operator",
)
OTHER_WORDS = {
    # Both name the reason; the words around it are each one's own.
    "run --rm docker.io/library/parity:v1 not/valid true",
    "snapshots rm done",
    "images ls name=~[",
    "content get nonsense",
    "snapshots commit again look",
    "run --rm docker.io/library/parity:v1 fifth no-such-program",
    "tasks exec --exec-id three long no-such-program",
}


def kinds(text: str) -> list[str]:
    """The kinds of error that are named."""
    return [kind for kind in KINDS if kind in text]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Step], list[Step]]:
    folder = tmp_path_factory.mktemp("parity")
    archive = save_archive(folder / "image.tar", "docker.io/library/parity:v1")

    # One after the other: on a busy machine Debian's ctr loses the last output of what ends at once.
    with containerd() as peer:
        theirs = list(play_with_events(peer.address, archive, fresh(folder / "theirs")))
    with Daemon() as daemon:
        ours = list(play_with_events(str(daemon.socket), archive, fresh(folder / "ours")))
    return theirs, ours


def fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_every_step_was_played_by_both(played: tuple[list[Step], list[Step]]) -> None:
    theirs, ours = played
    assert [step.name for step in ours] == [step.name for step in theirs]


def test_every_exit_code_is_the_same(played: tuple[list[Step], list[Step]]) -> None:
    theirs, ours = played
    assert [(step.name, step.code) for step in ours] == [(step.name, step.code) for step in theirs]
    assert {step.code for step in theirs} >= {0, 1, 7, 9}, "the session has lost its failing steps"


def test_every_listing_is_the_same(played: tuple[list[Step], list[Step]]) -> None:
    theirs, ours = ({step.name: step.text for step in side if word_by_word(step)} for side in played)
    assert len(theirs) > 80
    assert ours == theirs


def test_every_failure_is_of_the_same_kind(played: tuple[list[Step], list[Step]]) -> None:
    def failures(side: list[Step]) -> list[tuple[str, list[str]]]:
        # Of a program that is not there containerd says "unknown" where we say which kind of error it is.
        failed = [step for step in side if step.code and "no-such-program" not in step.name]
        return [(step.name, kinds(step.text)) for step in failed if not word_by_word(step)]

    theirs, ours = map(failures, played)
    assert theirs
    assert ours == theirs


def word_by_word(step: Step) -> bool:
    return bool(WORD_BY_WORD.match(step.name)) and step.name not in OTHER_WORDS

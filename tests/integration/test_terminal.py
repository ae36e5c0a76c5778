"""A person at a terminal: ``orlop run -it`` in tmux."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.tmux import Terminal, once_of_size

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def terminal(daemon: Daemon, tmp_path: Path) -> Iterator[Terminal]:
    with Terminal(tmp_path, daemon.environment) as opened:
        yield opened


@pytest.fixture
def shell(terminal: Terminal, daemon: Daemon, image: str) -> Iterator[tuple[Terminal, str]]:
    name = f"term-{secrets.token_hex(4)}"
    terminal.type(f"orlop run -it --name {name} -e PS1='inside> ' {image} sh")
    terminal.wait_for("inside>", count=2)
    yield terminal, name
    daemon.orlop("rm", "-f", name)


def test_the_exit_code_of_the_shell_is_that_of_the_command(shell: tuple[Terminal, str]) -> None:
    terminal, _ = shell
    terminal.type("exit 7")
    terminal.wait_for("host>", count=2)
    terminal.type("echo code=$?")
    terminal.wait_for("code=7")


def test_a_line_can_be_edited_before_it_is_sent(shell: tuple[Terminal, str]) -> None:
    terminal, _ = shell
    terminal.press("e", "c", "h", "x", "BSpace", "o", "Space", "o", "n", "e", "X", "BSpace")
    terminal.press("Enter")
    terminal.wait_for("\none\n")


def test_ctrl_c_goes_to_the_program_in_the_container(shell: tuple[Terminal, str]) -> None:
    terminal, _ = shell
    terminal.type("echo going; sleep 1000; echo slept=$?")
    terminal.wait_for("\ngoing\n")
    terminal.press("C-c")
    terminal.type("echo still $((20+3)) here")
    terminal.wait_for("still 23 here")
    terminal.type("exit")
    terminal.wait_for("host>", count=2)


def test_the_container_sees_the_size_of_the_window_and_its_changes(shell: tuple[Terminal, str]) -> None:
    terminal, _ = shell
    terminal.type("stty size")
    terminal.wait_for("30 100")
    terminal.resize(120, 40)
    terminal.type(once_of_size(40, 120))
    terminal.wait_for("40 120")


def test_detached_and_attached_again_it_is_the_same_shell(shell: tuple[Terminal, str]) -> None:
    terminal, name = shell
    terminal.type("WORD=kept")
    terminal.wait_for("inside>", count=3)
    time.sleep(0.5)  # the shell asks the terminal where its cursor is, and the answer is the shell's
    terminal.press("C-p", "C-q")
    terminal.wait_for("host>", count=2)
    terminal.type(f"orlop attach {name}")
    terminal.type("echo word=$WORD")
    terminal.wait_for("word=kept")
    terminal.type("exit 3")
    terminal.wait_for("host>", count=3)
    terminal.type("echo code=$?")
    terminal.wait_for("code=3")


def test_the_terminal_is_as_it_was_afterwards(shell: tuple[Terminal, str]) -> None:
    terminal, _ = shell
    terminal.type("exit")
    terminal.wait_for("host>", count=2)
    terminal.type("stty -a | tr ' ' '\\n' | grep -xE 'icanon|echo|isig|-icanon|-echo|-isig' | tr '\\n' ,")
    screen = terminal.wait_for("icanon", count=3)
    assert "isig,icanon,echo," in screen


def test_an_exec_has_a_terminal_too(daemon: Daemon, terminal: Terminal, image: str) -> None:
    name = f"bg-{secrets.token_hex(4)}"
    daemon.must(daemon.orlop("run", "-d", "--name", name, image, "sleep", "1000"))
    terminal.type(f"orlop exec -it -e PS1='exec> ' {name} sh")
    terminal.wait_for("exec>", count=2)
    terminal.type("tty; exit 5")
    terminal.wait_for("/dev/pts/0")
    terminal.wait_for("host>", count=2)
    terminal.type("echo code=$?")
    terminal.wait_for("code=5")
    daemon.must(daemon.orlop("rm", "-f", name))


def test_ctrl_c_once_stops_a_container_without_a_terminal(
    daemon: Daemon, terminal: Terminal, image: str
) -> None:
    name = f"fg-{secrets.token_hex(4)}"
    terminal.type(f"orlop run --rm --name {name} {image} sh -c 'echo up; sleep 1000'")
    terminal.wait_for("\nup\n")
    terminal.press("C-c")
    terminal.wait_for("host>", count=2, seconds=20)
    assert name not in daemon.must(daemon.orlop("ps", "-a"))


def test_a_container_in_a_pipeline_ends_when_nobody_reads_on(
    daemon: Daemon, terminal: Terminal, image: str
) -> None:
    name = f"pipe-{secrets.token_hex(4)}"
    terminal.type(f"orlop run --rm --name {name} {image} yes | head -n 1; echo codes=${{PIPESTATUS[*]}}")
    terminal.wait_for("\ny\n")
    terminal.wait_for("codes=141 0")
    assert name not in daemon.must(daemon.orlop("ps", "-a"))

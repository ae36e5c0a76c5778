"""What the command says of itself and of what goes wrong: completion, help, mistakes, no daemon."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orlop.cli import format as look
from orlop.cli.main import COMMANDS, IMAGE_COMMANDS, SYSTEM_COMMANDS, cli
from tests.clients.conftest import ORLOP


def test_a_shell_is_offered_commands_options_and_names(world: Any) -> None:
    for name in ("one", "other"):
        world.ok("run", "-d", "--name", name, "any", "stubborn")

    def offered(*words: str) -> list[str]:
        asked = {"COMP_WORDS": " ".join(("orlop", *words)), "COMP_CWORD": str(len(words))}
        done = subprocess.run(
            [ORLOP],
            env={**world.environment, **asked, "_ORLOP_COMPLETE": "bash_complete"},
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return [line.partition(",")[2] for line in done.stdout.decode().split()]

    assert offered("up") == ["update"]
    assert offered("update", "--memory") == ["--memory", "--memory-swap", "--memory-reservation"]
    assert sorted(offered("stop", "o")) == ["one", "other"]
    assert offered("stop", "one", "o") == ["other"]
    assert offered("--address", "unix:///nowhere", "stop", "o") == [], "nobody is there to ask"
    source = {**world.environment, "_ORLOP_COMPLETE": "bash_source"}
    assert b"_ORLOP_COMPLETE=bash_complete" in subprocess.check_output([ORLOP], env=source, timeout=30)


def test_nothing_that_comes_from_outside_reaches_the_terminal_as_it_is(world: Any) -> None:
    table = world.ok("plugins")
    assert "\x1b" not in table
    assert "no\\x1b[31m zfs" in table


def test_events_follow_until_interrupted(world: Any) -> None:
    process = world.start("events", "--output", "json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    event = json.loads(process.stdout.readline())
    assert (event["topic"], event["event"]) == ("/tasks/exit", {"pid": 7})
    process.send_signal(2)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_no_daemon(world: Any, tmp_path: Path) -> None:
    done = world.run("--address", f"unix://{tmp_path}/none", "ps")
    assert done.returncode == 1
    line, hint = done.stderr.decode().splitlines()
    assert line == f"orlop: cannot reach orlopd at {tmp_path}/none: no such file"
    assert hint.startswith("hint: start it with `orlopd`")
    assert world.run("--address", f"unix://{tmp_path}/none", "run", "any").returncode == 125


def test_a_socket_that_nobody_listens_on(world: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
    done = world.run("--address", f"unix://{tmp_path}/s", "status")
    assert done.returncode == 1
    assert b"the socket is there, but nobody listens" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="to be refused takes another user than root")
def test_a_socket_of_another_group(world: Any) -> None:
    # The command as nobody, with files that nobody may read: the interpreter may be root's own.
    script = (
        "import os, sys; from orlop.cli import main, system; import orlop.client;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main.run(sys.argv[1:]))"
    )
    folder = Path(f"/tmp/orlop-test-{os.getpid()}")
    folder.mkdir(mode=0o755)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(folder / "s"))
            bound.listen()
            (folder / "s").chmod(0o660)
            os.chown(folder / "s", 0, 4)
            done = subprocess.run(
                [sys.executable, "-c", script, "--address", f"unix://{folder}/s", "status"],
                capture_output=True,
                timeout=30,
                check=False,
            )
        line, hint = done.stderr.decode().splitlines()
        owner = "permission denied (the socket belongs to group adm, mode 0660)"
        assert line == f"orlop: cannot reach orlopd at {folder}/s: {owner}"
        assert hint == "hint: join the group adm, or use root"
    finally:
        (folder / "s").unlink()
        folder.rmdir()


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["rnu"], 2, "orlop: No such command 'rnu'. Did you mean 'run'?"),
        (["ps", "--al"], 2, "orlop: No such option '--al'."),
        (
            ["run", "--memory", "lots", "any"],
            125,
            "orlop: Invalid value for '-m' / '--memory': 'lots' is no amount",
        ),
        (["run"], 125, "orlop: say what to run"),
        (
            ["run", "-v", "name:data", "any"],
            125,
            "orlop: Invalid value for '-v' / '--volume': the path inside, 'data', is not absolute",
        ),
        (["run", "--rootfs", "/nowhere", "--", "sh"], 125, "orlop: /nowhere: no such directory"),
        (["run", "--rootfs", "/"], 125, "orlop: a root directory has no command of its own"),
        (["--address", "nonsense", "ps"], 1, "orlop: malformed address 'nonsense'"),
        (["exec", "box"], 125, "orlop: Missing argument 'COMMAND...'"),
    ],
)
def test_what_is_typed_wrong_is_said_in_a_line(
    world: Any, arguments: list[str], code: int, line: str
) -> None:
    done = world.run(*arguments)
    assert done.returncode == code
    assert done.stderr.decode().startswith(line)
    assert b"Traceback" not in done.stderr


def test_starting_up_loads_no_more_than_it_needs(world: Any) -> None:
    script = (
        "import sys; from orlop.cli import main; main.run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )

    def loaded(*arguments: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env=world.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return {name.partition(".")[0] for name in done.stderr.split()}

    assert loaded("--help").isdisjoint({"rich", "grpc", "google", "asyncio", "anyio"})
    assert loaded("ps").isdisjoint({"rich", "anyio"})


def test_an_interrupt_while_it_starts_is_quiet(world: Any, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = {**world.environment, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([ORLOP, "version"], env=environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_every_command_has_help_that_fits(world: Any) -> None:
    for homes, group in ((COMMANDS, cli), (IMAGE_COMMANDS, None), (SYSTEM_COMMANDS, None)):
        for name in homes:
            if group:
                command = group.get_command(None, name)  # pyright: ignore[reportArgumentType]
                assert command is not None
                assert command.help


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (300 << 20, "300 MiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert look.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "1 second"), (59, "59 seconds"), (61, "1 minute"), (7300, "2 hours"), (3 * 86400, "3 days")],
)
def test_ages(seconds: int, text: str) -> None:
    assert look.span(seconds) == text

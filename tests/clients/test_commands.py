"""The command without a terminal: lines, tables, JSON, exit codes, errors."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from orlop.cli import format as look
from orlop.cli.main import COMMANDS, IMAGE_COMMANDS, SYSTEM_COMMANDS, cli
from tests.clients.conftest import ORLOP


def test_piped_input_goes_in_and_output_comes_out(world: Any) -> None:
    done = world.run("run", "-i", "any", "cat", input=b"hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")
    assert world.record("stdin_end")


def test_errors_of_the_process_go_to_standard_error(world: Any) -> None:
    process = world.start("run", "any", "polite", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (out, err) == (b"", b"got TERM\n")


@pytest.mark.parametrize(
    ("program", "code"), [(("exit", "7"), 7), (("exit", "0"), 0), (("nothing",), 127), (("README",), 126)]
)
def test_exit_code_is_the_commands_own(world: Any, program: tuple[str, ...], code: int) -> None:
    assert world.run("run", "any", *program).returncode == code


def test_reason_of_an_exit_is_told(world: Any) -> None:
    done = world.run("run", "--name", "box", "any", "exit", "137", "out of memory")
    assert done.returncode == 137
    assert done.stderr == b"orlop: box: out of memory\n"


def test_engine_failure_is_125_with_a_line_and_a_hint(world: Any) -> None:
    done = world.run("run", "missing", "echo")
    assert (done.returncode, done.stderr) == (125, b"orlop: missing: no such image\n")
    done = world.run("exec", "nobody", "echo")
    assert done.returncode == 125
    assert done.stderr == b'orlop: no container "nobody"\nhint: `orlop ps -a` lists them\n'


def test_other_failures_are_1(world: Any) -> None:
    done = world.run("logs", "nobody")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b'orlop: no container "nobody"\n')


def test_what_run_asks_for(world: Any, tmp_path: Path) -> None:
    host_value = {"FROM_HERE": "x"}
    os.environ.update(host_value)
    world.ok(
        *("run", "-d", "--rm", "-e", "A=1", "-e", "FROM_HERE", "-e", "NOT_SET_ANYWHERE", "-m", "1.5g"),
        *("--cpus", "0.5", "--net", "host", "-v", f"{tmp_path}:/data:ro,rshared", "--tmpfs", "/t:size=1m"),
        *("-l", "team=a", "--entrypoint", "echo", "--pull", "never", "any", "--flag", "-x"),
    )
    asked = world.record("run")
    assert asked["args"] == ["--flag", "-x"]
    assert asked["env"] == ["A=1", "FROM_HERE=x"]
    assert asked["memory"] == 3 << 29
    assert asked["nano_cpus"] == 500_000_000
    assert asked["network"] == 2
    assert asked["mounts"] == [[str(tmp_path), "/data", True, ["rshared"]], ["", "/t", False, ["size=1m"]]]
    assert asked["entrypoint"] == ["echo"]
    assert asked["labels"] == {"team": "a"}
    assert asked["pull"] == 3
    assert asked["rm"]
    assert asked["detach"]
    assert asked["on_cancel"] == 1


def test_run_without_an_image(world: Any, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    world.ok("run", "-d", "--rootfs", os.path.relpath(tmp_path / "root"), "--", "echo", "-n")
    asked = world.record("run")
    assert asked["run"] == str(tmp_path / "root")
    assert asked["args"] == ["echo", "-n"]


def test_copy_puts_files_in_before_the_start(world: Any, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"#!")
    program.chmod(0o755)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a").write_text("a")
    out = world.ok(
        *("run", "--rootfs", "scratch", "--copy", f"{program}:/app", "--copy", f"{tmp_path / 'conf'}:/etc/"),
        *("--", "echo", "done"),
    )
    assert out == "done\n"
    with tarfile.open(world.tar) as tar:
        assert {m.name: m.mode for m in tar if m.isfile()} == {"app": 0o755, "etc/conf/a": 0o644}
        assert {(m.uid, m.gid, m.uname) for m in tar} == {(0, 0, "")}


def test_a_copy_that_fails_leaves_no_container(world: Any, tmp_path: Path) -> None:
    (tmp_path / "refuse").write_text("")
    done = world.run("run", "--rootfs", "scratch", "--copy", f"{tmp_path / 'refuse'}:/refuse", "--", "echo")
    assert (done.returncode, done.stderr) == (125, b"orlop: an entry leaves the root\n")
    assert world.ok("ps", "-aq") == ""


def test_detached_prints_the_id(world: Any) -> None:
    identity = world.ok("run", "-d", "--name", "box", "any", "stubborn").strip()
    assert len(identity) == 32
    [listed] = json.loads(world.ok("ps", "--output", "json"))
    assert (listed["id"], listed["state"], listed["name"]) == (identity, "running", "box")


def test_create_and_start_in_steps(world: Any) -> None:
    world.ok("create", "--name", "box", "--pull", "never", "any", "exit", "4")
    assert "Created" in world.ok("ps", "-a")
    assert world.run("start", "-a", "box").returncode == 4
    assert "Exited (4)" in world.ok("ps", "-a")


def test_table_lists_all_pages_newest_first(world: Any) -> None:
    for name in ("one", "two", "three"):
        world.ok("run", "-d", "--name", name, "any", "stubborn")
    lines = world.ok("ps").splitlines()
    assert lines[0].split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME"]
    assert [line.split()[-1] for line in lines[1:]] == ["three", "two", "one"]
    assert len({line.rindex("Up ") for line in lines[1:]}) == 1


def test_life_of_a_container(world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "polite")
    assert world.ok("pause", "box") == "box\n"
    assert "(paused)" in world.ok("ps")
    world.ok("resume", "box")
    assert world.ok("stop", "-t", "3", "box") == "box\n"
    assert world.record("timeout")["timeout"] == 3
    assert world.ok("wait", "box") == "0\n"
    assert world.ok("rm", "-f", "box") == "box\n"


def test_one_bad_name_does_not_keep_the_others_from_it(world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "stubborn")
    done = world.run("rm", "-f", "nobody", "box")
    assert (done.returncode, done.stdout) == (1, b"box\n")
    assert done.stderr.startswith(b'orlop: no container "nobody"')


def test_logs(world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "stubborn")
    done = world.run("logs", "--tail", "5", "--since", "10m", "box")
    assert (done.stdout, done.stderr) == (b"part whole\n", b"trouble\n")
    assert world.record("tail") == {"tail": 5, "since": True}
    stamped = world.run("logs", "-t", "box")
    assert stamped.stdout.count(b"Z ") == 1
    assert stamped.stderr.endswith(b"Z trouble\n")


def test_pull_tells_steps_in_lines_when_there_is_no_terminal(world: Any) -> None:
    done = world.run("pull", "alpine")
    assert done.stdout == b"docker.io/library/alpine:latest\n"
    assert done.stderr.decode().splitlines() == [
        "docker.io/library/alpine:latest: resolved sha256:" + "0123456789abcdef" * 4,
        "manifest 0123456789ab: fetched",
        "layer aaaaaaaaaaaa: fetching 2.0 MiB",
        "layer aaaaaaaaaaaa: fetched",
        "layer bbbbbbbbbbbb: fetching 2.0 MiB",
        "layer bbbbbbbbbbbb: fetched",
        "layer aaaaaaaaaaaa: unpacked",
        "layer bbbbbbbbbbbb: unpacked",
    ]


def test_what_pull_and_export_ask_for(world: Any) -> None:
    world.ok("pull", "-q", "a")
    assert (world.record("pull")["discard"], world.record("pull")["all_platforms"]) == (None, False)
    platform = ("--platform", "windows(10.0.17763)/amd64")
    world.ok("pull", "-q", "--all-platforms", "--discard-unpacked", *platform, "b")
    world.ok("pull", "-q", "--keep-unpacked", "c")
    asked = world.records("pull")
    assert [each["discard"] for each in asked] == [None, True, False]
    assert (asked[1]["all_platforms"], asked[1]["os_version"]) == (True, "10.0.17763")
    assert b"is no platform" in world.run("pull", "--platform", "windows(10/amd64", "a").stderr
    world.ok("export", "--all-platforms", "a")
    world.ok("export", "--skip-missing", "a")
    asked = world.records("skip_missing")
    assert [(each["all_platforms"], each["skip_missing"]) for each in asked] == [(True, False), (False, True)]


def test_referrers_in_a_table_and_in_json(world: Any) -> None:
    lines = world.ok("referrers", "--type", "a/b", "alpine").splitlines()
    assert lines[0].split() == ["DIGEST", "TYPE", "SIZE"]
    assert lines[1].split()[1:] == ["a/b", "3", "B"]
    assert world.record("referrers") == {"referrers": "alpine", "type": "a/b"}
    told = json.loads(world.ok("referrers", "--output", "json", "alpine"))
    assert told["listed"][0]["annotations"] == {"k": "v"}


def test_run_tells_the_steps_of_its_pull(world: Any) -> None:
    done = world.run("run", "pulled", "echo", "hi")
    assert done.stdout == b"hi\n"
    assert b"layer aaaaaaaaaaaa: unpacked\n" in done.stderr


def test_images_in_a_table_and_in_json(world: Any) -> None:
    for name in ("b", "a"):
        world.ok("pull", "-q", name)
    assert world.ok("images", "-q").split() == [f"docker.io/library/{name}:latest" for name in "ab"]
    assert "linux/amd64" in world.ok("images")
    listed = json.loads(world.ok("images", "--output", "json"))
    assert [image["size"] for image in listed] == [3_500_000, 3_500_000]
    assert world.ok("rmi", "a").splitlines()[0] == "untagged a"
    assert json.loads(world.ok("image", "ls", "--format", "json"))[0]["platforms"][0]["os"] == "linux"


def test_import_and_export(world: Any, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"x" * 2_500_000)
    assert world.ok("import", "--name", "mine", str(tmp_path / "archive")) == "mine\n"
    assert b"unpacked" in world.run("import", str(tmp_path / "archive")).stderr
    assert world.ok("import", "-q", "--discard-unpacked", "-", input=b"y" * 100) == "from/archive:1\n"
    assert [record["discard"] for record in world.records("imported")] == [None, None, True]
    assert [record["imported"] for record in world.records("imported")] == [2_500_000, 2_500_000, 100]
    world.ok("export", "a", "b", "-o", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b"ab"
    assert world.ok("export", "a") == "a"


def test_import_of_a_bad_archive(world: Any) -> None:
    done = world.run("import", "-", input=b"bad" * 5_000_000)
    assert (done.returncode, done.stderr) == (1, b"orlop: the archive is truncated\n")
    done = world.run("import", "/nowhere.tar")
    assert (done.returncode, done.stderr) == (1, b"orlop: /nowhere.tar: No such file or directory\n")


def test_export_that_fails_leaves_the_file_as_it_was(world: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    assert world.run("export", "missing", "-o", str(tmp_path / "out")).returncode == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "before"}


def test_image_build_is_a_function_of_the_tree(world: Any, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "z").mkdir(parents=True)
    (root / "z" / "file").write_bytes(b"x" * 1500)
    os.link(root / "z" / "file", root / "z" / "linked")
    (root / "a").symlink_to("z/file")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
    os.utime(root / "z" / "file", (1, 1_000_000_000))
    (root / "z").chmod(0o2750)
    arguments = ("image", "build", "--from-dir", str(root), "--entrypoint", "/app 'a b'", "--cmd", '["x"]')
    assert world.ok(*arguments, "-e", "A=1", "-l", "k=v", "mine").startswith("mine sha256:")
    first = world.tar.read_bytes()
    asked = world.records("build")[0]
    assert asked["entrypoint"] == ["/app", "a b"]
    assert (asked["cmd"], asked["env"], asked["labels"]) == (["x"], ["A=1"], {"k": "v"})
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        members = {m.name: m for m in tar}
    assert list(members) == ["a", "pipe", "z", "z/file", "z/linked"]
    assert members["a"].linkname == "z/file"
    assert members["z/linked"].islnk()
    assert members["z"].mode == 0o2750
    assert members["z/file"].mtime == 1_000_000_000
    world.ok(*arguments, "mine")
    assert world.tar.read_bytes() == first


def test_inspect_finds_containers_and_images(world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "stubborn")
    world.ok("pull", "-q", "a")
    box, image = json.loads(world.ok("inspect", "box", "a"))
    assert (box["type"], box["oci_spec"]) == ("container", {"ociVersion": "1.2.0"})
    assert (image["type"], image["config"]["cmd"]) == ("image", ["sh"])
    done = world.run("inspect", "nobody")
    assert (done.returncode, done.stderr) == (1, b"orlop: nobody: no such container or image\n")


def test_update_asks_for_what_was_named_alone(world: Any) -> None:
    for name in ("one", "two"):
        world.ok("run", "-d", "--name", name, "any", "stubborn")
    how = ("--memory-swap", "-1", "--cpus", "1.5")
    assert world.ok("update", "-m", "64m", *how, "one", "two") == "one\ntwo\n"
    world.ok("update", "--restart", "always", "one")
    limits = {"memory_bytes": 64 << 20, "memory_swap_bytes": -1, "nano_cpus": 1_500_000_000}
    asked = [(each["resources"], each["restart"]) for each in world.records("update")]
    assert asked == [(limits, None), (limits, None), ({}, "always")]
    refused = world.run("update", "one")
    assert refused.returncode == 2
    assert b"say what to change" in refused.stderr


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


def test_top_prints_a_line_for_each_process(world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "stubborn")
    _, main, idle = world.ok("top", "box").splitlines()
    assert main.split() == ["42", "41", "1", "0", "S", "0.00s", "0", "B", "-", "-", "sh", "-c", "x"]
    assert idle.split()[-2:] == ["e1", "[gone]"]
    assert [each["pid"] for each in json.loads(world.ok("top", "--output", "json", "box"))] == [42, 43]


def test_stats_without_a_stream(world: Any) -> None:
    world.ok("run", "-d", "--name", "box", "any", "stubborn")
    header, line = world.ok("stats", "--no-stream").splitlines()
    assert header.startswith("CONTAINER ID")
    assert line.split()[1:5] == ["box", "50.0%", "64.0", "MiB"]


def test_the_daemon_about_itself(world: Any) -> None:
    assert "orlopd 9.8.7 is up" in world.ok("status")
    assert json.loads(world.ok("status", "--output", "json"))["up"]
    assert "colour:" in world.ok("info")
    assert json.loads(world.ok("version", "--output", "json"))["server"]["containerd_api"] == "2.3"
    assert "1.0 MiB" in world.ok("system", "df")
    assert "removed container old" in world.ok("system", "prune", "-a")
    assert [p["status"] for p in json.loads(world.ok("plugins", "--output", "json"))] == ["ok", "skipped"]


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

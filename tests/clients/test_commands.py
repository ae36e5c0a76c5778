"""The command without a terminal: lines, tables, JSON, exit codes, errors."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest


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

"""Plugins and the running daemon: drop-ins, failures, required ones, and what config says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tomllib
from pathlib import Path

from tests.support.daemon import BIN, Daemon, eventually, refused

DROP_IN = """
from orlopd.plugin import Config, Provider, hookimpl


class Keys(Config):
    colour: str = "blue"


class Paint:
    def register(self, server):
        return []


@hookimpl
def orlop_services():
    yield Provider("paint", lambda _: Paint(), config=Keys, capabilities=("dry",), exports={"coat": "2"})
"""

BROKEN = """
from orlopd.plugin import Provider, hookimpl
from orlopd.plugin.errors import Skip


def fail(context):
    raise RuntimeError("no brush")


def skip(context):
    raise Skip("no paint on this machine")


@hookimpl
def orlop_snapshotters():
    yield Provider("broken", fail)
    yield Provider("unsuited", lambda context: None, probe=skip)
"""


SLOW = """
import anyio
from orlopd.plugin import Provider, hookimpl


class Slow:
    def register(self, server):
        return []

    async def aclose(self):
        await anyio.sleep_forever()


@hookimpl
def orlop_services():
    yield Provider("slow", lambda _: Slow())
"""


def rows(daemon: Daemon) -> dict[str, str]:
    """Status by id, of the plugins that ``ctr plugins ls`` shows."""
    lines = daemon.must(daemon.ctr("plugins", "ls")).splitlines()[1:]
    return {line.split()[1]: line.split()[-1] for line in lines}


def test_drop_ins_are_opened_and_failures_reported() -> None:
    plugins = {"paint.py": DROP_IN, "broken.py": BROKEN, "nonsense.py": "def ("}
    with Daemon(plugins=plugins) as daemon:
        found = rows(daemon)
        assert found["paint"] == "ok"
        assert found["broken"] == "error"
        assert found["unsuited"] == "skip"
        assert found["nonsense"] == "error"
        assert "snapshotter.broken failed: RuntimeError: no brush" in daemon.log
        assert "snapshotter.unsuited skipped: no paint on this machine" in daemon.log
        assert "plugin nonsense failed: cannot be loaded: SyntaxError" in daemon.log
        assert "Traceback" not in daemon.log
        detail = daemon.must(daemon.ctr("plugins", "ls", "-d", "id==paint"))
        assert "dry" in detail
        assert "coat" in detail


def test_config_shows_the_plugins_sections() -> None:
    with Daemon('[plugins.service.paint]\ncolour = "red"\n', plugins={"paint.py": DROP_IN}) as daemon:
        dumped = tomllib.loads(
            daemon.must(daemon.run(BIN / "orlopd", "--config", daemon.config, "config", "dump"))
        )
        assert dumped["plugins"]["service"]["paint"] == {"colour": "red"}
        shown = daemon.must(daemon.run(BIN / "orlopd", "config", "default", "--config", daemon.config))
        assert tomllib.loads(shown)["plugins"]["service"]["paint"] == {"colour": "blue"}
        assert "[plugins.snapshotter.overlayfs]" in shown


def test_a_required_plugin_that_fails_stops_the_start(idle: Daemon) -> None:
    (idle.folder / "plugins" / "broken.py").write_text(BROKEN)
    drop_ins = f'plugin_dirs = ["{idle.folder}/plugins"]\n'
    for name, reason in (
        ("snapshotter.broken", "failed: RuntimeError: no brush"),
        ("snapshotter.unsuited", "skipped: no paint on this machine"),
    ):
        idle.config.write_text(f'{drop_ins}required_plugins = ["{name}"]\n')
        assert refused(idle) == (1, f"the required plugin {name} is {reason}")
    assert not idle.socket.exists()


def test_unknown_plugins_in_the_config_are_named_with_the_nearest(idle: Daemon) -> None:
    idle.config.write_text('required_plugins = ["snapshotter.overlay"]\n')
    wanted = 'line 1: key "required_plugins": no plugin offers "snapshotter.overlay"; did you mean'
    assert refused(idle) == (2, f'{idle.config}: {wanted} "snapshotter.overlayfs"?')
    idle.config.write_text("[plugins.snapshotter.vsf]\n")
    code, said = refused(idle)
    assert code == 2
    assert 'did you mean "snapshotter.vfs"?' in said


def test_a_disabled_plugin_is_skipped() -> None:
    with Daemon('disabled_plugins = ["snapshotter.vfs"]\n') as daemon:
        found = rows(daemon)
    assert found["vfs"] == "skip"
    assert found["overlayfs"] == "ok"


def test_a_plugin_with_a_typo_in_its_section_stops_the_start(idle: Daemon) -> None:
    (idle.folder / "plugins" / "paint.py").write_text(DROP_IN)
    idle.config.write_text(
        f'plugin_dirs = ["{idle.folder}/plugins"]\n\n[plugins.service.paint]\ncolor = "red"\n'
    )
    wrong = 'section [plugins.service.paint]: unknown key "color"; did you mean "colour"?'
    assert refused(idle) == (2, f"{idle.config}: line 4: {wrong}")


def test_a_plugin_that_does_not_close_is_not_waited_for_long() -> None:
    with Daemon("shutdown_timeout = 0.5\n", plugins={"slow.py": SLOW}) as daemon:
        assert daemon.stop(20) == 0
        assert "service.slow did not close within 0.5 seconds" in daemon.log


def test_a_second_signal_ends_the_daemon_at_once() -> None:
    with Daemon("shutdown_timeout = 30\n", plugins={"slow.py": SLOW}) as daemon:
        os.kill(daemon.pid, signal.SIGTERM)
        assert eventually(lambda: "info    orlopd: stopping" in daemon.log, bool, 20)
        assert daemon.stop(20) == 1  # and not when the 30 s are over


def test_orlopd_plugins_lists_what_is_on_offer(tmp_path: Path) -> None:
    (tmp_path / "paint.py").write_text(DROP_IN)
    config = tmp_path / "config.toml"
    config.write_text(f'plugin_dirs = ["{tmp_path}"]\n')
    done = subprocess.run(
        [BIN / "orlopd", "plugins", "--config", config], capture_output=True, text=True, check=True
    )
    assert any(
        line.split() == ["service.paint", str(tmp_path / "paint.py")] for line in done.stdout.splitlines()
    )
    assert done.stderr == ""


def test_spans_go_where_the_environment_says() -> None:
    with Daemon(environment={"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "50"}) as daemon:
        daemon.must(daemon.ctr("version"))
        daemon.stop()
        log = daemon.log
    spans = [json.loads("{" + part + "}") for part in _objects(log)]
    names = {span["name"] for span in spans}
    assert "containerd.services.version.v1.Version/Version" in names
    assert all(span["kind"] == "SpanKind.SERVER" for span in spans)


def _objects(log: str) -> list[str]:
    """The insides of the JSON objects that stand among the lines of a log."""
    inside: list[str] | None = None
    found: list[str] = []
    for line in log.splitlines():
        if line == "{":
            inside = []
        elif line == "}" and inside is not None:
            found.append("\n".join(inside))
            inside = None
        elif inside is not None:
            inside.append(line)
    return found

"""The daemon's start and end, and what it says when it cannot start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2

from orlop_protos.containerd.services.content.v1 import content_pb2, content_pb2_grpc
from orlop_protos.containerd.services.events.v1 import events_pb2, events_pb2_grpc
from orlop_protos.containerd.services.introspection.v1 import introspection_pb2, introspection_pb2_grpc
from orlop_protos.containerd.services.version.v1 import version_pb2_grpc
from tests.support.daemon import BIN, Daemon, eventually, refused


def versions(channel: grpc.Channel) -> str:
    return version_pb2_grpc.VersionStub(channel).Version(empty_pb2.Empty(), timeout=10).version


def test_it_serves_version_health_and_reflection(daemon: Daemon) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    with daemon.channel() as channel:
        assert versions(channel)
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(stub.ServerReflectionInfo(iter([request]), timeout=10)))
    names = {service.name for service in answer.list_services_response.service}
    assert {"containerd.services.version.v1.Version", "grpc.health.v1.Health"} <= names


def test_ctr_sees_version_and_plugins(daemon: Daemon) -> None:
    assert "Server:" in daemon.must(daemon.ctr("version"))
    rows = [line.split() for line in daemon.must(daemon.ctr("plugins", "ls")).splitlines()]
    assert ["io.containerd.snapshotter.v1", "overlayfs"] in [row[:2] for row in rows]
    assert ["io.containerd.grpc.v1", "content", "-", "ok"] in rows


def test_the_uuid_outlives_the_daemon_and_the_pid_is_true(fresh_daemon: Daemon) -> None:
    def facts() -> introspection_pb2.ServerResponse:
        with fresh_daemon.channel() as channel:
            return introspection_pb2_grpc.IntrospectionStub(channel).Server(empty_pb2.Empty(), timeout=10)

    first = facts()
    assert first.pid == fresh_daemon.pid
    assert first.pidns == Path("/proc/self/ns/pid").stat().st_ino
    fresh_daemon.restart()
    assert facts().uuid == first.uuid


def test_plugins_are_filtered(daemon: Daemon) -> None:
    with daemon.channel() as channel:
        stub = introspection_pb2_grpc.IntrospectionStub(channel)
        wanted = "type==io.containerd.snapshotter.v1, id==vfs"
        found = stub.Plugins(introspection_pb2.PluginsRequest(filters=[wanted]), timeout=10).plugins
        assert [(plugin.type, plugin.id) for plugin in found] == [("io.containerd.snapshotter.v1", "vfs")]
        assert found[0].platforms[0].os == "linux"


def test_sockets_and_folders_are_for_those_they_are_for() -> None:
    with Daemon('socket_mode = "0600"\nsocket_group = 12\n') as daemon:
        found = daemon.socket.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_gid == 12
        assert stat.S_IMODE(daemon.root.stat().st_mode) == 0o700
        assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o711


def test_the_default_mode_lets_the_group_in(daemon: Daemon) -> None:
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


def test_several_addresses(idle: Daemon) -> None:
    second = idle.folder / "more" / "second.sock"
    with Daemon("", "--address", f"unix://{second}") as daemon:
        with grpc.insecure_channel(f"unix://{second}") as channel:
            assert versions(channel)
        with daemon.channel() as channel:
            assert versions(channel)
    assert not second.exists()


def test_a_socket_left_by_a_killed_daemon_is_taken_over(fresh_daemon: Daemon) -> None:
    fresh_daemon.kill9()
    assert fresh_daemon.socket.exists()
    fresh_daemon.start()
    with fresh_daemon.channel() as channel:
        assert versions(channel)


def test_a_second_daemon_on_the_same_folders_is_refused(daemon: Daemon) -> None:
    other = daemon.folder / "other.sock"
    code, said = refused(daemon, "--address", f"unix://{other}")
    assert code == 1
    assert said == f"another orlopd (pid {daemon.pid}) is using the folder {daemon.root}"
    code, said = refused(daemon, "--root", str(daemon.folder / "elsewhere"))
    assert code == 1
    assert said == f"another orlopd (pid {daemon.pid}) is using the folder {daemon.state}"
    assert not other.exists()
    with daemon.channel() as channel:
        assert versions(channel)


def test_a_socket_in_use_is_refused(daemon: Daemon, idle: Daemon) -> None:
    code, said = refused(idle, "--address", daemon.address)
    assert (code, said) == (
        1,
        f"another orlopd (pid {daemon.pid}) is using the socket {daemon.socket}",
    )
    taken = idle.folder / "taken.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(taken))
        server.listen()
        code, said = refused(idle, "--address", f"unix://{taken}")
    assert (code, said) == (1, f"the socket {taken} is in use by another process")
    assert taken.exists()
    with daemon.channel() as channel:
        assert versions(channel)
    assert not idle.socket.exists()


def test_a_start_on_a_live_socket_makes_no_folders(daemon: Daemon, tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    options = ("--root", str(root), "--state", str(state), "--address", daemon.address)
    code, said = refused(daemon, *options)
    assert (code, said) == (
        1,
        f"another orlopd (pid {daemon.pid}) is using the socket {daemon.socket}",
    )
    assert not root.exists()
    assert not state.exists()
    code, said = refused(daemon, "--root", str(root))
    assert (code, "is using the folder" in said) == (1, True)
    assert not root.exists()
    with daemon.channel() as channel:
        assert versions(channel)


def test_a_file_in_the_sockets_place_is_kept(idle: Daemon) -> None:
    idle.socket.write_text("precious")
    code, said = refused(idle)
    assert (code, said) == (1, f"cannot serve on {idle.socket}: it exists and is no socket")
    assert idle.socket.read_text() == "precious"


def test_a_state_folder_too_deep_for_sockets_is_refused(idle: Daemon) -> None:
    deep = idle.folder / ("d" * 60)
    code, said = refused(idle, "--state", str(deep))
    assert code == 1
    assert said.startswith(f"the path of the state folder {deep} is too long for unix sockets below it")
    code, said = refused(idle, "--address", f"unix://{deep}/{'e' * 60}")
    assert code == 1
    assert "is too long: it has" in said


def test_folders_that_cannot_be_used_are_named(idle: Daemon) -> None:
    file = idle.folder / "file"
    file.touch()
    code, said = refused(idle, "--root", str(file))
    assert (code, said) == (1, f"cannot use the folder {file}: file exists")


def test_config_typos_name_file_key_and_the_nearest(idle: Daemon) -> None:
    idle.config.write_text('# first\nsnapshoter = "vfs"\n')
    code, said = refused(idle)
    assert (code, said) == (
        2,
        f'{idle.config}: line 2: unknown key "snapshoter"; did you mean "snapshotter"?',
    )
    idle.config.write_text("[grpc]\n\nreflectoin = true\n")
    code, said = refused(idle)
    assert (code, said) == (
        2,
        f'{idle.config}: line 3: unknown key "grpc.reflectoin"; did you mean "reflection"?',
    )
    idle.config.write_text("[grpc\n")
    code, said = refused(idle)
    assert code == 2
    assert said.startswith(f"{idle.config}: not TOML: ")
    idle.config.unlink()
    code, said = refused(idle)
    assert (code, said) == (2, f"{idle.config}: no such file or directory")


def test_wrong_options_are_one_line(idle: Daemon) -> None:
    assert refused(idle, "--adress", "unix:///x")[0] == 2
    assert refused(idle, "--address", "tcp://1.2.3.4")[1].startswith("--address: 'tcp://1.2.3.4' is not")
    assert refused(idle, "--log-level", "loud")[1].startswith("--log-level: ")
    assert refused(idle, "nonsense")[0] == 2


def test_an_unknown_group_is_named(idle: Daemon) -> None:
    idle.config.write_text('socket_group = "nobodys-group"\n')
    code, said = refused(idle)
    assert (code, said) == (1, 'key "socket_group": there is no group "nobodys-group" on this machine')


def test_sigterm_ends_streams_and_lets_unary_calls_finish() -> None:
    with Daemon("shutdown_timeout = 50") as fresh_daemon, fresh_daemon.channel() as channel:
        stream = events_pb2_grpc.EventsStub(channel).Subscribe(events_pb2.SubscribeRequest(), timeout=50)
        versions(channel)
        assert fresh_daemon.stop(timeout=25) == 0  # and not when the 50 s of either are over
        with pytest.raises(grpc.RpcError) as caught:
            next(iter(stream))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not fresh_daemon.socket.exists()
        assert not list(fresh_daemon.folder.glob("*.lock"))


def test_a_namespace_is_required_where_containerd_requires_it(daemon: Daemon) -> None:
    with daemon.channel() as channel:
        stub = content_pb2_grpc.ContentStub(channel)
        request = content_pb2.InfoRequest(digest="sha256:" + "0" * 64)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Info(request, timeout=10)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "namespace is required" in (caught.value.details() or "")
        with pytest.raises(grpc.RpcError) as caught:
            stub.Info(request, timeout=10, metadata=(("containerd-namespace", "../etc"),))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_it_inherits_no_descriptors(idle: Daemon) -> None:
    marker = idle.folder / "leaked"
    with marker.open("w") as leaked:
        os.set_inheritable(leaked.fileno(), True)
        process = subprocess.Popen(
            idle.command, close_fds=False, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        try:
            assert eventually(idle.socket.exists, bool, 20)
            links: list[str] = []
            for entry in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    links.append(str(entry.readlink()))
            assert str(marker) not in links
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)


def test_version_and_help() -> None:
    done = subprocess.run([BIN / "orlopd", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("orlopd 0.")
    done = subprocess.run([BIN / "orlopd", "--help"], capture_output=True, text=True, check=True)
    assert "--address" in done.stdout


def test_json_log(idle: Daemon) -> None:
    import json

    with Daemon('log_format = "json"') as daemon:
        lines = [json.loads(line) for line in daemon.log.splitlines()]
    assert lines
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


def test_a_folder_that_others_use_is_left_alone(idle: Daemon) -> None:
    shared = idle.folder / "shared"
    shared.mkdir(mode=0o755)
    (shared / "precious").touch()
    code, said = refused(idle, "--root", str(shared))
    assert code == 1
    assert said.startswith(f"the folder {shared} is open to others (mode 755)")
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


def test_an_empty_folder_is_taken_and_closed(idle: Daemon) -> None:
    idle.root.mkdir(mode=0o755)
    with idle:
        assert stat.S_IMODE(idle.root.stat().st_mode) == 0o700
        idle.root.chmod(0o755)
        idle.restart()
        assert stat.S_IMODE(idle.root.stat().st_mode) == 0o700


def test_spans_that_nobody_takes_do_not_hold_up_the_end() -> None:
    nobody = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",  # seconds in which it tries
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
    }
    with Daemon(environment=nobody) as daemon:
        daemon.must(daemon.ctr("version"))
        assert daemon.stop(timeout=25) == 0  # and not when the 30 s of the library's own patience are over

"""The configuration: defaults, file, options, and how it is shown."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from orlopd.config import Config, ConfigError, Overrides, load, render
from orlopd.config.load import find_line
from orlopd.plugin import Config as Section

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_key_is_documented_and_no_other() -> None:
    documented = re.findall(r"^`([a-z_.]+)`\n: ", OPERATIONS.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(keys(Config))


def test_every_key_has_a_description() -> None:
    def bare(model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if not field.description:
                yield name
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from bare(field.annotation)

    assert not list(bare(Config))


class Limits(Section):
    fast: bool = True
    path: Path = Path('/a "quoted" path')
    tags: dict[str, int] = {"a.b": 1}


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(render(Config(), {"snapshotter": {"io.example.v1": Limits()}}))
    found = load(file).config
    assert found.model_dump(exclude={"plugins"}) == Config().model_dump(exclude={"plugins"})
    section = found.plugins["snapshotter"]["io.example.v1"]
    assert Limits.model_validate(section) == Limits()


def test_every_key_is_shown_with_its_description() -> None:
    shown = render(Config(), {})
    flat = tomllib.loads(shown)
    for key in keys(Config):
        first, _, second = key.partition(".")
        if first != "plugins":
            assert second in flat[first] if second else first in flat
    words = re.sub(r"\s*\n# ", "\n", shown)
    for field in Config.model_fields.values():
        if field is not Config.model_fields["plugins"]:
            assert (field.description or "") in words.replace("# ", "")


def test_options_override_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    file.write_text('root = "/file"\nstate = "/state"\nlog_level = "error"\n')
    monkeypatch.chdir(tmp_path)
    found = load(file, Overrides(root="relative", addresses=["unix:///a", "/b", "unix:/b"])).config
    assert found.root == tmp_path / "relative"
    assert found.state == Path("/state")
    assert found.log_level == "error"
    assert found.sockets == [Path("/a"), Path("/b")]
    assert load(file).config.sockets == [Path("/state/orlop.sock")]


def test_places_come_from_xdg_when_not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for variable, folder in (("DATA_HOME", "d"), ("RUNTIME_DIR", "r"), ("CONFIG_HOME", "c")):
        monkeypatch.setenv(f"XDG_{variable}", str(tmp_path / folder))
    (tmp_path / "c" / "orlop").mkdir(parents=True)
    (tmp_path / "c" / "orlop" / "config.toml").write_text('log_level = "debug"\n')
    found = load()
    assert found.file == tmp_path / "c" / "orlop" / "config.toml"
    assert found.config.log_level == "debug"
    assert found.config.root == tmp_path / "d" / "orlop"
    assert found.config.state == tmp_path / "r" / "orlop"
    assert found.config.plugin_dirs == [tmp_path / "c" / "orlop" / "plugins"]


def test_places_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    config = Config()
    assert (config.root, config.state) == (Path("/var/lib/orlop"), Path("/run/orlop"))
    assert config.plugin_dirs == [Path("/etc/orlop/plugins")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('snapshoter = "vfs"\n', 'line 1: unknown key "snapshoter"; did you mean "snapshotter"?'),
        ("xyzzy = 1\n", 'line 1: unknown key "xyzzy"'),
        ("grpc.reflectoin = true\n", 'line 1: unknown key "grpc.reflectoin"; did you mean "reflection"?'),
        ('root = "here"\n', "line 1: key \"root\": 'here' is not an absolute path"),
        (
            '\nsocket_mode = "0999"\n',
            "line 2: key \"socket_mode\": '0999' is not a mode: want three octal digits, for example '0660'",
        ),
        (
            'addresses = [\n  "tcp://1.2.3.4",\n]\n',
            "line 1: key \"addresses.0\": 'tcp://1.2.3.4' is not an address: want unix:///PATH",
        ),
        ("grpc = 3\n", 'line 1: key "grpc": input should be a valid dictionary or instance of Grpc, not 3'),
        ("a = [\n", "not TOML: "),
        ("\udcff", "not UTF-8 text"),
    ],
)
def test_mistakes_name_file_line_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError) as caught:
        load(file)
    said = str(caught.value)
    assert "\n" not in said
    assert (
        said.startswith(f"{file}: {message}")
        if message.startswith("not TOML")
        else said == f"{file}: {message}"
    )


def test_lines_are_found_in_tables_dotted_and_quoted() -> None:
    text = '# a\n[plugins.runtime."io.x.v2"]\nb = 1\n\n[gc] # c\ndelay=1\n[plugins]\nsnapshotter.vfs = {}\n'
    assert find_line(text, ["plugins", "runtime", "io.x.v2", "b"]) == 3
    assert find_line(text, ["plugins", "runtime", "io.x.v2", "other"]) == 2
    assert find_line(text, ["gc", "delay"]) == 6
    assert find_line(text, ["plugins", "snapshotter", "vfs"]) == 8
    assert find_line(text, ["nowhere"]) is None

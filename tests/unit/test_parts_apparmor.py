"""The default AppArmor profile. AppArmor is off here: a program that records is its apparmor_parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orlop_plugins.apparmor import plugin
from orlop_plugins.apparmor.profile import Profile
from orlopd.plugin.errors import FailedPrecondition

RECORDER = """#!/bin/sh
echo "$*" >>{folder}/asked
cat >{folder}/text
echo 'orlop-default (enforce)' >>{folder}/profiles
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    (tmp_path / "enabled").write_text("Y\n")
    (tmp_path / "profiles").write_text("other (enforce)\n")
    return Profile(tmp_path / "enabled", tmp_path / "profiles", str(tmp_path))


def parser(folder: Path, text: str) -> None:
    (folder / "apparmor_parser").write_text(text.format(folder=folder))
    (folder / "apparmor_parser").chmod(0o755)


async def adjusted(monkeypatch: pytest.MonkeyPatch, profile: Profile, process: dict[str, Any]) -> Any:
    monkeypatch.setattr(plugin, "_profile", profile)
    spec = {"process": process}
    await plugin.orlop_adjust_spec(spec)
    return spec["process"].get("apparmorProfile")


async def test_the_default_profile_is_loaded_once_for_containers_that_name_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    parser(tmp_path, RECORDER)
    assert await adjusted(monkeypatch, profile, {"apparmorProfile": "unconfined"}) == "unconfined"
    assert not (tmp_path / "asked").exists()
    assert await adjusted(monkeypatch, profile, {}) == "orlop-default"
    assert await adjusted(monkeypatch, profile, {}) == "orlop-default"
    assert (tmp_path / "asked").read_text() == "--replace --skip-cache\n"
    text = (tmp_path / "text").read_text()
    assert "\nprofile orlop-default flags=(attach_disconnected,mediate_deleted) {\n" in text
    assert "  deny mount,\n" in text
    assert "  deny /sys/devices/virtual/powercap/** rwklx,\n" in text
    assert text.count("{") == text.count("}")


async def test_there_is_none_where_apparmor_is_off_or_has_no_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    assert await adjusted(monkeypatch, profile, {}) is None
    parser(tmp_path, RECORDER)
    (tmp_path / "enabled").write_text("N\n")
    assert await adjusted(monkeypatch, profile, {}) is None
    assert not (tmp_path / "asked").exists()


async def test_a_profile_that_cannot_be_loaded_is_an_error_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    parser(tmp_path, "#!/bin/sh\ncat >/dev/null; echo 'syntax error, line 3'; exit 1\n")
    with pytest.raises(FailedPrecondition, match="syntax error, line 3"):
        await adjusted(monkeypatch, profile, {})

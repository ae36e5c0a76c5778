"""Platforms: spelling, and which image runs where."""

from __future__ import annotations

import pytest

from orlopd.core import platforms
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Platform


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64/v1", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("macos/arm64", "darwin/arm64"),
        ("linux/i386", "linux/386"),
        ("Windows(10.0.17763.2114)/x86_64", "windows(10.0.17763.2114)/amd64"),
    ],
)
def test_a_platform_has_one_spelling(text: str, spelled: str) -> None:
    assert str(platforms.parse(text)) == spelled


def test_half_a_platform_is_completed_from_this_machine() -> None:
    here = platforms.current()
    assert here.os == "linux"
    assert platforms.parse("linux") == here
    assert platforms.parse("s390x") == Platform("linux", "s390x")
    assert platforms.parse(here.architecture).architecture == here.architecture


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "linux/",
        "linux//v8",
        "a/b/c/d",
        "nonsense",
        "linux/am d64",
        "../../etc",
        "windows(1/amd64",
        "windows()/amd64",
    ],
)
def test_a_malformed_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="malformed platform"):
        platforms.parse(text)


@pytest.mark.parametrize(
    ("want", "have", "rank"),
    [
        ("linux/amd64", "linux/amd64", 0),
        ("linux/amd64", "linux/386", 1),
        ("linux/amd64", "linux/amd64/v2", None),
        ("linux/amd64/v3", "linux/amd64/v2", 1),
        ("linux/amd64/v3", "linux/amd64", 2),
        ("linux/amd64", "linux/arm64", None),
        ("linux/amd64", "windows/amd64", None),
        ("linux/arm64", "linux/arm64/v8", 0),
        ("linux/arm64", "linux/arm/v7", 2),
        ("linux/arm/v7", "linux/arm/v6", 1),
        ("linux/arm/v6", "linux/arm/v7", None),
        ("linux/s390x", "linux/s390x", 0),
        ("windows(10.0.17763.1)/amd64", "windows(10.0.17763.2114)/amd64", 0),
        ("windows(10.0.17763.1)/amd64", "windows(10.0.20348.1)/amd64", None),
        ("windows(10.0.17763.1)/amd64", "windows/amd64", 0),
        ("windows/amd64", "windows(10.0.20348.1)/amd64", 0),
        ("linux(6.1)/amd64", "linux(6.2)/amd64", None),
    ],
)
def test_what_runs_where_and_how_well(want: str, have: str, rank: int | None) -> None:
    assert platforms.match(platforms.parse(want), platforms.parse(have)) == rank


def test_the_best_comes_first_and_the_undeclared_last() -> None:
    offered = [
        (None, "undeclared"),
        (Platform("linux", "386"), "old"),
        (Platform("linux", "arm64"), "other"),
        (Platform("linux", "amd64"), "mine"),
    ]
    assert platforms.ranked(Platform("linux", "amd64"), offered) == ["mine", "old", "undeclared"]


def test_the_very_version_comes_before_one_that_serves() -> None:
    offered = [
        (Platform("windows", "amd64"), "untold"),
        (Platform("windows", "amd64", "", "10.0.17763.2114"), "same build"),
        (Platform("windows", "amd64", "", "10.0.20348.1"), "other"),
        (Platform("windows", "amd64", "", "10.0.17763.1"), "mine"),
    ]
    want = Platform("windows", "amd64", "", "10.0.17763.1")
    assert platforms.ranked(want, offered) == ["mine", "untold", "same build"]

"""Published weaknesses of runtimes, told by the version."""

from __future__ import annotations

import pytest

from orlop_plugins.oci.advisories import weaknesses


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("1.0.0-rc6", {"CVE-2019-5736", "CVE-2024-21626", "CVE-2025-31133"}),
        ("1.0.0-rc7", {"CVE-2024-21626", "CVE-2025-31133"}),
        ("1.1.5+ds1", {"CVE-2024-21626", "CVE-2025-31133"}),
        ("1.1.12", {"CVE-2025-31133"}),
        ("1.2.7", {"CVE-2025-31133"}),
        ("1.2.8", set[str]()),
        ("1.3.2", {"CVE-2025-31133"}),
        ("1.3.3", set[str]()),
        ("1.4.0-rc.2", {"CVE-2025-31133"}),
        ("1.4.0-rc.3", set[str]()),
        ("1.4.0", set[str]()),
        ("2.0.0", set[str]()),
    ],
)
def test_cve_2025_31133_52565_52881_a_version_is_weak_until_its_series_was_mended(
    version: str, numbers: set[str]
) -> None:
    said = " ".join(weaknesses(f"runc version {version}\ncommit: x\nspec: 1.0.2\n"))
    every = {"CVE-2019-5736", "CVE-2024-21626", "CVE-2025-31133"}
    assert {number for number in every if number in said} == numbers


@pytest.mark.parametrize("said", ["", "crun version 1.8.1", "runc", "something else 1.0"])
def test_of_what_is_not_understood_nothing_is_said(said: str) -> None:
    assert weaknesses(said) == []

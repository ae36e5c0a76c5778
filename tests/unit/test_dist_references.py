"""References: Docker's grammar, completed names, and errors that say what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlopd.core.references import parse_reference
from orlopd.plugin.errors import InvalidArgument

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.18", "docker.io/library/alpine:3.18"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("docker.io/library/alpine:latest", "docker.io/library/alpine:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("127.0.0.1:5000/a/b/c:1", "127.0.0.1:5000/a/b/c:1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("ghcr.io/a_b/c__d/e-f/g--h:V.1-x_Y", "ghcr.io/a_b/c__d/e-f/g--h:V.1-x_Y"),
        ("Registry.Example:443/app", "Registry.Example:443/app:latest"),
        (f"alpine@{DIGEST}", f"docker.io/library/alpine@{DIGEST}"),
        (f"ghcr.io/app:1@{DIGEST}", f"ghcr.io/app:1@{DIGEST}"),
    ],
)
def test_a_reference_is_completed(text: str, full: str) -> None:
    assert parse_reference(text).name == full
    assert parse_reference(full).name == full


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it is empty"),
        ("a b", "a space"),
        ("app\n", "a space"),
        ("Alpine", "'Alpine' has uppercase letters"),
        ("Upper/case", "'Upper' has uppercase letters"),
        ("ghcr.io/Team/app", "'Team' has uppercase letters"),
        ("app:", "the tag after ':' is empty"),
        ("app:.x", "'.x' is no tag"),
        ("app:" + "x" * 129, "is no tag"),
        ("app@sha256:12", "no digest"),
        ("app@", "no digest"),
        (f"app@{DIGEST.upper()}", "no digest"),
        (f"@{DIGEST}", "no name before '@'"),
        ("ghcr.io/", "no repository after the host"),
        ("ghcr.io//app", "a part between two '/' is empty"),
        ("a/../b", "'..' is no part of a repository name"),
        ("-app", "'-app' is no part of a repository name"),
        ("a___b", "is no part of a repository name"),
        ("http://host/name", "it is a URL"),
        ("host:port/app", "'host:port' is no host name"),
        ("-host.example/app", "is no host name"),
        ("0123456789abcdef" * 4, "64 hex digits are an id"),
        ("ghcr.io/" + "a" * 250, "longer than 255"),
        ("app\x1b[31m", "unprintable"),
    ],
)
def test_what_is_wrong_is_said(text: str, what: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_reference(text)
    assert what in refused.value.message
    assert refused.value.reason == "MALFORMED_REFERENCE"
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    ("full", "familiar"),
    [
        ("docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/team/app:1", "team/app:1"),
        ("docker.io/library/a/b:1", "library/a/b:1"),
        ("ghcr.io/team/app:1", "ghcr.io/team/app:1"),
    ],
)
def test_the_familiar_spelling_means_the_same(full: str, familiar: str) -> None:
    assert parse_reference(full).familiar == familiar
    assert parse_reference(familiar).name == full


def test_the_digest_is_what_a_registry_is_asked_for() -> None:
    assert parse_reference(f"app:1@{DIGEST}").object == DIGEST
    assert parse_reference("app:1").object == "1"
    assert parse_reference(f"app@{DIGEST}").with_tag("2").name == "docker.io/library/app:2"


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_a_clear_error(text: str) -> None:
    try:
        parsed = parse_reference(text)
    except InvalidArgument:
        return
    assert parse_reference(parsed.name) == parsed
    assert ".." not in parsed.name.split("/")

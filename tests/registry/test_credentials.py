"""`orlop push` and `orlop pull` with the credentials of Docker's config and its helpers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop.credentials import DockerConfig, host_of
from orlop.errors import OrlopError
from tests.support.daemon import Daemon, daemon
from tests.support.images import make_image, save_archive, text_layer
from tests.support.registry import SECRET_WORD, Registry, registry

__all__ = ["daemon"]

HELPER = """#!/bin/sh
read server
test "$1" = get || exit 2
case $server in
{host}) echo '{{"ServerURL":"x","Username":"{user}","Secret":"{secret}"}}' ;;
localhost) echo 'the keychain is locked: {secret}' >&2; exit 1 ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def guarded() -> Iterator[Registry]:
    with registry(htpasswd=f"user:{SECRET_WORD}\n") as running:
        yield running


class Docker:
    """A folder that is $DOCKER_CONFIG, with a helper on the path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setenv("DOCKER_CONFIG", str(folder))
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def config(self, **content: Any) -> DockerConfig:
        (self.folder / "config.json").write_text(json.dumps(content))
        return DockerConfig.load()

    def helper(self, host: str, user: str = "user", secret: str = "secret-word") -> None:
        program = self.folder / "docker-credential-tests"
        program.write_text(HELPER.format(host=host, user=user, secret=secret))
        program.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_CONFIG": str(self.folder), "PATH": f"{self.folder}:/usr/bin:/bin"}


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    return Docker(tmp_path, monkeypatch)


def auth(user: str, secret: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


@pytest.mark.parametrize("by", ["helper", "store", "file"])
def test_push_and_pull_find_the_credentials(
    daemon: Daemon, guarded: Registry, docker: Docker, tmp_path: Path, by: str
) -> None:
    name, target = f"docker.io/library/guarded:{by}", f"{guarded.address}/credentials/{by}:1"
    image = make_image([text_layer("x", by)])
    daemon.must(daemon.orlop("import", save_archive(tmp_path / "a.tar", name, image=image)))
    refused = daemon.orlop("push", name, target, env=docker.environment)
    assert (refused.returncode, b"wants credentials" in refused.stderr) == (1, True)
    docker.helper(guarded.address)
    if by == "helper":
        docker.config(credHelpers={guarded.address: "tests"})
    elif by == "store":
        docker.config(credsStore="tests")
    else:
        docker.config(auths={f"https://{guarded.address}/v1/": auth("user", "secret-word")})
    pushed = daemon.orlop("push", name, target, env=docker.environment)
    assert daemon.must(pushed) == f"{target} {image.digest}\n"
    assert b"pushed" in pushed.stderr
    assert daemon.must(daemon.orlop("pull", "-q", target, env=docker.environment)) == f"{target}\n"
    told = json.loads(
        daemon.must(daemon.orlop("push", "--output", "json", "-q", target, env=docker.environment))
    )
    assert told["digest"] == image.digest
    assert "secret-word" not in daemon.log
    for each in (name, target):
        daemon.must(daemon.orlop("rmi", each))


async def test_entries_are_found_by_host_whatever_their_spelling(docker: Docker) -> None:
    config = docker.config(
        auths={
            "https://index.docker.io/v1/": auth("hub", "1"),
            "ghcr.io": auth("gh", "2:3"),
            "empty.example": {},
            "token.example": {"identitytoken": "t", **auth("ignored", "x")},
            "bad.example": {"auth": "%%%"},
        }
    )
    for reference, user, secret in [
        ("alpine", "hub", "1"),
        ("team/app:1", "hub", "1"),
        ("docker.io/team/app", "hub", "1"),
        ("ghcr.io/team/app@sha256:x", "gh", "2:3"),
        ("token.example/a", "", "t"),
    ]:
        found = await config.find(reference)
        assert found is not None
        assert (found.username, found.secret) == (user, secret)
    assert await config.find("empty.example/a") is None
    assert await config.find("other.example/a") is None
    with pytest.raises(OrlopError, match="no base64"):
        await config.find("bad.example/a")


async def test_a_helper_may_have_a_token_or_nothing_or_trouble(docker: Docker) -> None:
    docker.helper("one.example", user="<token>", secret="t")
    config = docker.config(credsStore="tests", auths={"two.example": auth("u", "p")})
    one, two = await config.find("one.example/a"), await config.find("two.example/a")
    assert one is not None
    assert two is not None
    assert (one.username, one.secret) == ("", "t")
    assert (two.username, two.secret) == ("u", "p")
    config = docker.config(credHelpers={"localhost": "tests", "x.example": "absent", "y.example": "../evil"})
    with pytest.raises(
        OrlopError, match="docker-credential-tests failed for localhost: the keychain is locked"
    ):
        await config.find("localhost/a")
    helper = docker.folder / "docker-credential-tests"
    for program, error in {
        "#!/bin/sh\nexit 3": "failed for localhost: exit code 3",
        "#!/bin/sh\necho hello": "something else than credentials",
        "#!/nowhere/sh": "cannot be run",
    }.items():
        helper.write_text(program)
        with pytest.raises(OrlopError, match=error):
            await config.find("localhost/a")
    with pytest.raises(OrlopError, match="is not installed"):
        await config.find("x.example/a")
    with pytest.raises(OrlopError, match="is not installed"):
        await config.find("y.example/a")


def test_a_config_that_is_absent_says_nothing_and_a_malformed_one_is_told(docker: Docker) -> None:
    config = DockerConfig.load()
    assert not config.knows("alpine")
    (docker.folder / "config.json").write_text("{")
    with pytest.raises(OrlopError, match="it is not JSON"):
        DockerConfig.load()


def test_the_host_of_a_reference_is_docker_s_rule() -> None:
    assert host_of("oci-layout:/some/path:1") == ""
    assert [host_of(each) for each in ("a", "a/b", "localhost/a", "h:5000/a", "index.docker.io/a")] == [
        "docker.io", "docker.io", "localhost", "h:5000", "docker.io"
    ]  # fmt: skip

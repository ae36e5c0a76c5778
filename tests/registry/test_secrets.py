"""Secrets are nowhere: not in the log at its most talkative, not in spans, events, files or errors."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.test_auth import Tokens
from tests.support.daemon import Daemon
from tests.support.faulty import FaultyRegistry, Handler
from tests.support.registry import SECRET_WORD, Registry, registry

PASSWORD, WRONG, TOKEN = "secret-word", "wrong-secret-word", "token-nobody-may-see"
HEADER = "header-nobody-may-see"


def pair(secret: str) -> str:
    return base64.b64encode(f"user:{secret}".encode()).decode()


@pytest.fixture
def talkative() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="orlop-hosts-", dir="/tmp") as hosts:
        config = (
            f'log_level = "debug"\n[plugins.resolver.registry]\nhost_folders = ["{hosts}"]\nretries = 1\n'
        )
        (Path(hosts) / "_default").mkdir()
        (Path(hosts) / "_default" / "hosts.toml").write_text(f'[header]\nX-Tests = "{HEADER}"\n')
        environment = {"OTEL_TRACES_EXPORTER": "console"}
        with Daemon(config, environment=environment) as daemon:
            yield daemon


class Person:
    """Somebody with a Docker config, who keeps all that programs say."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._daemon = daemon
        self._folder = folder
        self.heard = ""

    def knows(self, host: str, secret: str) -> None:
        (self._folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": pair(secret)}}}))

    def does(self, *words: str) -> str:
        done = self._daemon.orlop(*words, env={"DOCKER_CONFIG": str(self._folder)})
        self.heard += done.stdout.decode() + done.stderr.decode()
        return done.stderr.decode()


@pytest.fixture
def guarded() -> Iterator[Registry]:
    with registry(htpasswd=f"user:{SECRET_WORD}\n") as running:
        yield running


def test_no_secret_is_told_or_kept(
    talkative: Daemon, guarded: Registry, faulty: FaultyRegistry, tmp_path: Path
) -> None:
    person = Person(talkative, tmp_path)
    tokens = Tokens(faulty)
    tokens.answer, tokens.accepted = {"token": TOKEN}, f"Bearer {TOKEN}"
    person.knows(faulty.address, PASSWORD)
    assert "unpacked" in person.does("pull", "--output", "json", faulty.reference)
    person.does("referrers", faulty.reference)
    for secret in (WRONG, PASSWORD):
        person.knows(guarded.address, secret)
        said = person.does("push", faulty.reference, f"{guarded.address}/secrets/image:1")
        assert ("refuses the credentials" in said) is (secret == WRONG)
    assert guarded.fetched(faulty.served.layers[0]) == 0
    person.does("pull", f"{guarded.address}/secrets/image:1")

    def echo(handler: Handler) -> None:
        given = dict(handler.headers.items())
        handler.answer(403, json.dumps({"errors": [{"message": f"{PASSWORD} {given}"}]}).encode())

    faulty.on("/token", echo)
    faulty.faults.insert(0, faulty.faults.pop())
    person.knows(faulty.address, PASSWORD)
    assert "does not allow" in person.does("pull", f"{faulty.address}/test/image:2")
    faulty.on("manifests/3", echo)
    faulty.faults.insert(0, faulty.faults.pop())
    assert "does not allow" in person.does("pull", f"{faulty.address}/test/image:3")
    person.does("inspect", faulty.reference)
    assert any(HEADER in seen.header("x-tests") for seen in faulty.seen), "the header was sent"
    assert any(seen.header("authorization") == f"Basic {pair(PASSWORD)}" for seen in faulty.seen)
    assert any(seen.header("authorization") == f"Bearer {TOKEN}" for seen in faulty.seen)

    talkative.stop()  # what is to be told and written is, then
    assert '"name": "orlop.engine.v1.ImageService/Pull"' in talkative.log, "the spans are in the log"
    places = {"what was said": person.heard.encode()}
    places |= {str(path): path.read_bytes() for path in talkative.folder.rglob("*") if path.is_file()}
    assert str(talkative.log_file) in places
    for secret in (PASSWORD, WRONG, TOKEN, HEADER, pair(PASSWORD), pair(WRONG)):
        assert [where for where, data in places.items() if secret.encode() in data] == []

"""TLS: trusted by the machine's authorities, and told apart from a registry that is not there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlopd.plugin.errors import Unavailable
from tests.registry.conftest import NOTHING, Rig
from tests.support.images import make_image, text_layer
from tests.support.registry import Registry, registry


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tests"
    subprocess.run(
        [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-out", "cert.pem", "-keyout", "key.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def secure(certificate: tuple[Path, Path]) -> Iterator[Registry]:
    with registry(tls=certificate) as running:
        yield running


async def test_a_certificate_that_nobody_vouches_for_is_refused(rig: Rig, secure: Registry) -> None:
    with pytest.raises(Unavailable, match="its certificate is not trusted") as refused:
        await rig.pull(f"{secure.address}/app:1")
    assert refused.value.reason == "UNTRUSTED_CERTIFICATE"
    assert await rig.left() == NOTHING


async def test_tls_on_loopback_is_found_by_itself(
    rig: Rig, secure: Registry, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    image = make_image([text_layer("x", "x")])
    reference = secure.push("tls/image:1", image, authority=certificate[0])
    assert (await rig.pull(reference)).target.digest == image.digest

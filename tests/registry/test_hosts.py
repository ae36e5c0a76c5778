"""certs.d: where a registry's content is looked for, and who is trusted there."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop_plugins.registry.endpoints import CAPABILITIES, Endpoint, find_endpoints
from orlopd.plugin import Credentials, ResolveOptions
from orlopd.plugin.errors import FailedPrecondition, NotFound, Unavailable
from tests.registry.conftest import FAST, HASTY, SCOPE, Rig, open_rig
from tests.support.faulty import FaultyRegistry, Handler, faulty_registry
from tests.support.images import MANIFEST, SmallImage, digest_of, make_image, text_layer
from tests.support.registry import Registry, registry


def found(folder: Path, host: str, text: str, where: str = "") -> list[Endpoint]:
    """What hosts.toml of this text says of a host."""
    (folder / (where or host)).mkdir(parents=True, exist_ok=True)
    (folder / (where or host) / "hosts.toml").write_text(text)
    return list(find_endpoints(host, False, [str(folder)]))


def test_without_a_file_the_registry_itself_is_asked(tmp_path: Path) -> None:
    for folders in ([], [str(tmp_path)], [str(tmp_path / "absent")]):
        [endpoint] = find_endpoints("docker.io", False, folders)
        assert str(endpoint.base) == "https://registry-1.docker.io/v2/"
        assert not endpoint.is_mirror
        assert endpoint.capabilities == CAPABILITIES


def test_mirrors_come_before_the_server_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """
    server = "https://real.example"
    [host."https://b.example/some/path"]
      capabilities = ["pull", "resolve"]
    [host."http://a.example:5000"]
      capabilities = ["pull"]
      dial_timeout = "1m1.5s"
    [host."c.example/own/root"]
      override_path = true
      [host."c.example/own/root".header]
        x-one = "1"
        x-two = ["2", "3"]
    """
    b, a, c, server = found(tmp_path, "registry.example:5000", text)
    assert [str(each.base) for each in (b, a, c, server)] == [
        "https://b.example/some/path/v2/",
        "http://a.example:5000/v2/",
        "https://c.example/own/root/",
        "https://real.example/v2/",
    ]
    assert b.capabilities == {"pull", "resolve"}
    assert a.connect_timeout == 61.5
    assert c.headers == {"x-one": "1", "x-two": "2, 3"}
    assert [each.namespace for each in (b, c, server)] == ["registry.example:5000"] * 2 + [""]


def test_without_a_server_the_registry_itself_comes_last(tmp_path: Path) -> None:
    text = 'skip_verify = true\n[host."https://mirror.example"]\nskip_verify = false'
    mirror, own = found(tmp_path, "docker.io", text)
    assert (mirror.tls.skip_verify, own.tls.skip_verify) == (False, True)
    assert str(own.base) == "https://registry-1.docker.io/v2/"


@pytest.mark.parametrize("where", ["registry.example_5000_", "registry.example:5000", "_default"])
def test_the_folder_of_a_host_has_several_spellings(tmp_path: Path, where: str) -> None:
    endpoints = found(tmp_path, "registry.example:5000", '[host."https://m.example"]', where)
    assert endpoints[0].base.host == "m.example"


def test_certificates_are_files_beside_it_or_lie_bare(tmp_path: Path) -> None:
    text = 'ca = ["ca.pem", "/abs.pem"]\nclient = [["c.pem", "k.pem"], "both.pem"]'
    [endpoint] = found(tmp_path, "one.example", text)
    folder = tmp_path / "one.example"
    assert endpoint.tls.authorities == (f"{folder}/ca.pem", "/abs.pem")
    assert endpoint.tls.pairs == ((f"{folder}/c.pem", f"{folder}/k.pem"), (f"{folder}/both.pem", ""))
    bare = tmp_path / "two.example"
    bare.mkdir()
    for name in ("a.crt", "c.cert", "c.key", "d.cert"):
        (bare / name).write_text("")
    [endpoint] = find_endpoints("two.example", False, [str(tmp_path)])
    assert endpoint.tls.authorities == (f"{bare}/a.crt",)
    assert endpoint.tls.pairs == ((f"{bare}/c.cert", f"{bare}/c.key"), (f"{bare}/d.cert", ""))


@pytest.mark.parametrize(
    "text",
    [
        "server = 1",
        "server = [",
        'server = "https://user:word@x.example"',
        'server = "https://"',
        "host = 1",
        '[host]\n"x.example" = 1',
        'capabilities = ["everything"]',
        "skip_verify = 1",
        "ca = 1",
        "client = [1]",
        "client = [['a']]",
        "header = 1",
        '[header]\n"x y" = "z"',
        '[header]\nx = "a\\nb"',
        'dial_timeout = "soon"',
        "a = " + "[" * 5000,
    ],
)
def test_a_malformed_file_is_told_and_not_passed_over(tmp_path: Path, text: str) -> None:
    with pytest.raises(FailedPrecondition, match=r"hosts\.toml is malformed") as bad:
        found(tmp_path, "x.example", text)
    assert bad.value.reason == "BAD_HOSTS_FILE"


class Hosts:
    """A rig whose registries are what the test writes into a certs.d of its own."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self._folder = folder

    def write(self, host: str, text: str) -> None:
        found(self._folder, host, text)


@pytest.fixture
async def hosts(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Hosts]:
    config = getattr(request, "param", FAST).model_copy(update={"host_folders": (str(tmp_path / "certs.d"),)})
    async with open_rig(tmp_path / "rig", config) as rig:
        yield Hosts(rig, tmp_path / "certs.d")


@pytest.fixture
def mirror() -> Iterator[FaultyRegistry]:
    with faulty_registry() as running:
        yield running


def route(faulty: FaultyRegistry, mirror: FaultyRegistry, more: str = "") -> str:
    return f'server = "http://{faulty.address}"\n[host."http://{mirror.address}"]\n{more}'


NAME = "registry.invalid/test/image:1"
ELSEWHERE = "layers.invalid"


async def test_a_mirror_serves_and_is_told_for_whom(
    hosts: Hosts, faulty: FaultyRegistry, mirror: FaultyRegistry
) -> None:
    mirror.image = faulty.image
    header = f'[host."http://{mirror.address}".header]\nx-mirror = "yes"'
    hosts.write("registry.invalid", route(faulty, mirror, header))
    image = await hosts.rig.pull(NAME, options=ResolveOptions(Credentials("user", "secret")))
    assert (image.name, image.target.digest) == (NAME, faulty.served.digest)
    assert faulty.seen == []
    assert all(seen.path.endswith("?ns=registry.invalid") for seen in mirror.seen)
    assert {seen.header("x-mirror") for seen in mirror.seen} == {"yes"}


@pytest.mark.parametrize("hosts", [HASTY], indirect=True, ids=["hasty"])
async def test_a_mirror_that_fails_is_passed_over(
    hosts: Hosts, faulty: FaultyRegistry, mirror: FaultyRegistry
) -> None:
    hosts.write("registry.invalid", route(faulty, mirror))
    for fault in (
        lambda handler: handler.answer(404),
        lambda handler: handler.answer(500),
        lambda handler: handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'}),
        Handler.hang,
    ):
        mirror.faults.clear()
        mirror.on(".", fault)
        image = await hosts.rig.pull(NAME, options=ResolveOptions(Credentials("user", "secret")))
        assert image.target.digest == faulty.served.digest
        assert {seen.header("authorization") for seen in mirror.seen} == {""}
        await hosts.rig.store.images.delete(SCOPE, NAME, sync=True)


async def test_a_blob_that_a_mirror_breaks_off_is_taken_up_at_the_registry(
    hosts: Hosts, faulty: FaultyRegistry, mirror: FaultyRegistry
) -> None:
    layer = faulty.served.layers[0]
    blob = faulty.served.blobs[layer]
    mirror.image = faulty.image
    mirror.on(f"GET .*{layer}", lambda handler: handler.cut(blob, 30), times=1)
    mirror.on(f"GET .*{layer}", lambda handler: handler.answer(404))
    hosts.write("registry.invalid", route(faulty, mirror, 'capabilities = ["pull"]'))
    await hosts.rig.pull(NAME)
    assert [seen.header("range") for seen in faulty.asked(layer)] == ["bytes=30-"]
    assert mirror.asked("HEAD") == []  # it may not resolve


async def test_a_mirror_that_always_breaks_off_is_passed_over(
    hosts: Hosts, faulty: FaultyRegistry, mirror: FaultyRegistry
) -> None:
    layer = faulty.served.layers[0]
    blob = faulty.served.blobs[layer]
    mirror.image = faulty.image
    mirror.on(f"GET .*{layer}", lambda handler: handler.cut(blob, 30))
    hosts.write("registry.invalid", route(faulty, mirror))
    await hosts.rig.pull(NAME)
    assert [seen.header("range") for seen in faulty.asked(layer)] == ["bytes=30-"]


async def test_a_mirror_without_a_registry_behind_it_is_named(
    hosts: Hosts, faulty: FaultyRegistry, mirror: FaultyRegistry
) -> None:
    layer = faulty.served.layers[0]
    blob = faulty.served.blobs[layer]
    mirror.image = faulty.image
    mirror.on(f"GET .*{layer}", lambda handler: handler.cut(blob, 30))
    only = f'server = "http://{faulty.address}"\ncapabilities = ["push"]\n[host."http://{mirror.address}"]'
    hosts.write("registry.invalid", only)
    with pytest.raises(Unavailable, match=f"{mirror.address}, a mirror of registry.invalid, breaks off"):
        await hosts.rig.pull(NAME)


async def test_where_all_fail_the_registry_has_the_word(
    hosts: Hosts, faulty: FaultyRegistry, mirror: FaultyRegistry
) -> None:
    hosts.write("registry.invalid", route(faulty, mirror))
    mirror.on(".", lambda handler: handler.answer(500))
    faulty.on(".", lambda handler: handler.answer(404))
    with pytest.raises(NotFound, match=r"at registry registry\.invalid"):
        await hosts.rig.pull(NAME)


async def test_a_file_may_leave_no_place(hosts: Hosts, faulty: FaultyRegistry) -> None:
    hosts.write("registry.invalid", f'server = "http://{faulty.address}"\ncapabilities = ["push"]')
    with pytest.raises(FailedPrecondition, match="leaves no place"):
        await hosts.rig.pull(NAME)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's certificate by it, and a client's."""
    folder = tmp_path_factory.mktemp("tls")
    new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={0} -keyout {0}.key"
    sign = "openssl x509 -req -in {0}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out {0}.pem"
    (folder / "server.ext").write_text(f"subjectAltName=IP:127.0.0.1,DNS:{ELSEWHERE}")
    (folder / "client.ext").write_text("extendedKeyUsage=clientAuth")
    commands = [f"{new.format('ca')} -x509 -days 2 -out ca.pem"]
    for name in ("server", "client"):
        commands.append(f"{new.format(name)} -out {name}.csr")
        commands.append(f"{sign.format(name)} -extfile {name}.ext")
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def private(certificates: Path) -> Iterator[Registry]:
    with registry(tls=(certificates / "server.pem", certificates / "server.key")) as running:
        yield running


async def test_a_private_authority_is_trusted_where_the_file_says_so(
    hosts: Hosts, private: Registry, certificates: Path
) -> None:
    image = make_image([text_layer("x", "private")])
    reference = private.push("private/image:1", image, authority=certificates / "ca.pem")
    server = f'server = "https://{private.address}"\n'
    hosts.write(private.address, server)
    with pytest.raises(Unavailable, match="not trusted"):
        await hosts.rig.pull(reference)
    hosts.write(private.address, f'{server}ca = "{certificates}/absent.pem"')
    with pytest.raises(FailedPrecondition, match=r"certificate .*absent\.pem cannot be used: no such file"):
        await hosts.rig.pull(reference)
    hosts.write(private.address, f'{server}ca = "{certificates}/server.key"')
    with pytest.raises(FailedPrecondition, match="cannot be used"):
        await hosts.rig.pull(reference)
    for trust in (f'ca = "{certificates}/ca.pem"', "skip_verify = true"):
        hosts.write(private.address, server + trust)
        assert (await hosts.rig.pull(reference)).target.digest == image.digest
    await hosts.rig.push(reference, f"{private.address}/private/pushed:1")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, certificates: Path) -> str:
    """Another host's name that leads to this machine, and whose certificate everybody trusts."""
    known = socket.getaddrinfo

    def look_up(host: Any, *more: Any, **words: Any) -> Any:
        return known("127.0.0.1" if host in (ELSEWHERE, ELSEWHERE.encode()) else host, *more, **words)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    return ELSEWHERE


def serving(certificates: Path, clients: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = clients
    return context


async def test_a_certificate_of_ours_is_shown_to_its_server_alone(
    hosts: Hosts, faulty: FaultyRegistry, certificates: Path, elsewhere: str
) -> None:
    shown: list[Any] = []
    layer = faulty.served.layers[0]

    def serve(handler: Handler) -> None:
        connection: Any = handler.connection
        shown.append(connection.getpeercert())
        handler.answer(200, faulty.served.blobs[layer])

    with (
        faulty_registry(faulty.image, tls=serving(certificates, ssl.CERT_REQUIRED)) as strict,
        faulty_registry(faulty.image, tls=serving(certificates, ssl.CERT_OPTIONAL)) as store,
    ):
        server = f'server = "https://{strict.address}"\nca = "{certificates}/ca.pem"\n'
        reference = f"{strict.address}/test/image:1"
        hosts.write(strict.address, server)
        with pytest.raises(Unavailable):
            await hosts.rig.pull(reference)
        away = {"Location": f"https://{elsewhere}:{store.address.rpartition(':')[2]}/x"}
        strict.on(f"GET .*{layer}", lambda handler: handler.answer(307, b"", away))
        store.on("/x", serve)
        pair = f'client = [["{certificates}/client.pem", "{certificates}/client.key"]]'
        hosts.write(strict.address, server + pair)
        assert (await hosts.rig.pull(reference)).target.digest == faulty.served.digest
    assert shown in ([None], [{}])


async def test_a_foreign_layer_comes_from_where_its_image_says_and_is_shown_nothing_of_ours(
    hosts: Hosts, faulty: FaultyRegistry, certificates: Path, elsewhere: str
) -> None:
    hosts.write(faulty.address, f'server = "http://{faulty.address}"\n[header]\nx-tests = "ours"')
    plain = faulty.served
    [layer, *_] = plain.layers
    with faulty_registry(plain, tls=serving(certificates, ssl.CERT_NONE)) as store:
        place = f"https://{elsewhere}:{store.address.rpartition(':')[2]}/v2/x/blobs/{layer}"
        manifest = plain.document()
        manifest["layers"][0] |= {
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "urls": ["https://127.0.0.1:1/absent", place],
        }
        data = json.dumps(manifest).encode()
        target = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
        rest = {each: blob for each, blob in plain.blobs.items() if each not in (layer, plain.digest)}
        faulty.image = SmallImage(target, {digest_of(data): data, **rest})
        store.on(layer, lambda handler: handler.cut(plain.blobs[layer], 30), times=1)
        await hosts.rig.pull(faulty.reference, options=ResolveOptions(Credentials("user", "secret")))
        assert await hosts.rig.digests() == {digest_of(data), layer, *rest}
        assert [seen.header("range") for seen in store.seen] == ["", "bytes=30-"]
        shown = {seen.header(name) for seen in store.seen for name in ("authorization", "x-tests")}
        assert shown == {""}


async def test_headers_of_the_file_are_not_logged(
    hosts: Hosts, faulty: FaultyRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    header = '[header]\nauthorization = "Bearer of-the-file"'
    hosts.write("registry.invalid", f'server = "http://{faulty.address}"\n{header}')
    await hosts.rig.pull(NAME)
    assert {seen.header("authorization") for seen in faulty.seen} == {"Bearer of-the-file"}
    assert "of-the-file" not in caplog.text

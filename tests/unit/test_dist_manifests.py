"""Indexes, manifests and configurations from strangers: strict, bounded, one clear error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlopd.core import manifests
from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.values import Descriptor, Platform, sha256

DIGEST = f"sha256:{'a' * 64}"
CONFIG = {"mediaType": manifests.OCI_CONFIG, "digest": DIGEST, "size": 2}
LAYER = {"mediaType": manifests.OCI_LAYER_GZIP, "digest": DIGEST, "size": 3}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": manifests.OCI_MANIFEST,
    "config": CONFIG,
    "layers": [LAYER],
}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": manifests.OCI_INDEX, "manifests": []}


def described(document: Any, media_type: str) -> tuple[Descriptor, bytes]:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Descriptor(media_type, sha256(data), len(data)), data


def manifest(**changes: Any) -> manifests.Manifest:
    return manifests.parse_manifest(*described(MANIFEST | changes, manifests.OCI_MANIFEST))


def index(**changes: Any) -> manifests.Index:
    return manifests.parse_index(*described(INDEX | changes, manifests.OCI_INDEX))


def test_a_manifest_is_read() -> None:
    found = manifest(annotations={"a": "b"})
    assert found.is_image
    assert found.config == Descriptor(manifests.OCI_CONFIG, DIGEST, 2)
    assert found.layers == (Descriptor(manifests.OCI_LAYER_GZIP, DIGEST, 3),)
    assert found.annotations == {"a": "b"}


def test_the_media_type_inside_may_be_left_out() -> None:
    assert manifest(mediaType="").layers
    assert manifest(mediaType=None).layers


@pytest.mark.parametrize(
    ("media_type", "document"),
    [
        (manifests.OCI_MANIFEST, MANIFEST | {"manifests": []}),
        (manifests.OCI_INDEX, INDEX | {"layers": []}),
        (manifests.OCI_INDEX, INDEX | {"config": CONFIG}),
        (manifests.OCI_INDEX, MANIFEST | INDEX),
        (manifests.OCI_MANIFEST, MANIFEST | {"fsLayers": []}),
        # The media type decides, and what the document says of itself must agree.
        (manifests.OCI_INDEX, INDEX | {"mediaType": manifests.OCI_MANIFEST}),
        (manifests.OCI_MANIFEST, MANIFEST | {"mediaType": manifests.OCI_INDEX}),
        (manifests.DOCKER_MANIFEST, MANIFEST),
    ],
)
def test_cve_2021_41190_an_ambiguous_document_is_refused(media_type: str, document: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        manifests.children(*described(document, media_type))
    assert refused.value.reason == "AMBIGUOUS_MANIFEST"


def test_cve_2021_41190_a_key_that_is_there_twice_is_refused() -> None:
    data = json.dumps(MANIFEST).encode().replace(b'"layers"', b'"layers": [], "layers"')
    with pytest.raises(InvalidArgument, match="says 'layers' twice"):
        manifests.parse_manifest(*described(data, manifests.OCI_MANIFEST))


@pytest.mark.parametrize(
    "digest",
    [
        "../../../etc/passwd",
        "sha256:../../x",
        "sha256:" + "A" * 64,
        "sha256:abc",
        "md5:" + "a" * 32,
        "",
        f"{DIGEST}/..",
    ],
)
def test_cve_2024_3727_a_digest_is_validated_before_it_is_used(digest: str) -> None:
    with pytest.raises(InvalidArgument, match="malformed digest"):
        manifest(layers=[LAYER | {"digest": digest}])
    with pytest.raises(InvalidArgument, match="malformed digest"):
        index(manifests=[LAYER | {"digest": digest}])
    config = {"rootfs": {"diff_ids": [digest]}}
    with pytest.raises(InvalidArgument, match="malformed digest"):
        manifests.parse_config(*described(config, manifests.OCI_CONFIG))


def test_cve_2023_25153_documents_are_bounded() -> None:
    huge = b"{" + b" " * manifests.MAX_DOCUMENT + b"}"
    for media_type in (manifests.OCI_MANIFEST, manifests.OCI_INDEX):
        with pytest.raises(InvalidArgument) as refused:
            manifests.children(*described(huge, media_type))
        assert refused.value.reason == "DOCUMENT_TOO_LARGE"
    with pytest.raises(InvalidArgument):
        manifests.check_pullable(Descriptor(manifests.OCI_INDEX, DIGEST, 1 << 40), "app")


def test_bombs_of_layers_and_children_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="the limit is 1024"):
        manifest(layers=[LAYER] * 5000)
    with pytest.raises(InvalidArgument, match="the limit is 4096"):
        index(manifests=[LAYER] * 5000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schemaVersion":' + b"9" * 10_000 + b"}",
        b'{"schemaVersion":1}',
        b'{"schemaVersion":2}',
        b'{"schemaVersion":2,"config":[]}',
        b'{"schemaVersion":2,"config":{}}',
        json.dumps(MANIFEST | {"layers": {}}).encode(),
        json.dumps(MANIFEST | {"layers": ["x"]}).encode(),
        json.dumps(MANIFEST | {"layers": [LAYER | {"size": -1}]}).encode(),
        json.dumps(MANIFEST | {"layers": [LAYER | {"size": 1.5}]}).encode(),
        json.dumps(MANIFEST | {"layers": [LAYER | {"size": True}]}).encode(),
        json.dumps(MANIFEST | {"layers": [LAYER | {"size": 1 << 70}]}).encode(),
        json.dumps(MANIFEST | {"layers": [LAYER | {"annotations": {"a": 1}}]}).encode(),
    ],
)
def test_a_malformed_manifest_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        manifests.parse_manifest(*described(data, manifests.OCI_MANIFEST))
    assert len(refused.value.message) < 600


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*MANIFEST, *INDEX, "annotations", "subject"]), _JSON))
def test_any_json_is_read_or_refused(changes: dict[str, Any]) -> None:
    for media_type in (manifests.OCI_MANIFEST, manifests.OCI_INDEX):
        try:
            manifests.children(*described({"schemaVersion": 2} | changes, media_type))
        except InvalidArgument:
            continue


def test_schema_1_is_refused_with_a_reason() -> None:
    for kind in ("json", "prettyjws"):
        old = Descriptor(f"application/vnd.docker.distribution.manifest.v1+{kind}", DIGEST, 10)
        with pytest.raises(InvalidArgument, match="format 1") as refused:
            manifests.check_pullable(old, "docker.io/library/old:1")
        assert refused.value.reason == "SCHEMA_1"


def test_attestations_and_unknown_children_are_passed_over() -> None:
    def child(number: int, **fields: Any) -> dict[str, Any]:
        return {"mediaType": manifests.OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 1} | fields

    amd64 = {"os": "linux", "architecture": "amd64"}
    found = index(
        manifests=[
            child(1, platform={"os": "unknown", "architecture": "unknown"}),
            child(2, platform=amd64, annotations={"vnd.docker.reference.type": "attestation-manifest"}),
            child(3, platform=amd64) | {"mediaType": "application/vnd.tests.thing"},
            child(4),
            child(5, platform=amd64 | {"variant": "v1"}),
            child(6, platform={"os": "linux", "architecture": "arm64"}),
        ]
    )
    chosen = manifests.candidates(found, Platform("linux", "amd64"))
    assert [int(each.digest[7:], 16) for each in chosen] == [5, 4]
    assert manifests.offered(found) == "linux/amd64, linux/arm64"


def test_a_configuration_is_read() -> None:
    config = manifests.parse_config(
        *described(
            {
                "os": "linux",
                "architecture": "arm64",
                "variant": "v8",
                "config": {
                    "Entrypoint": ["/bin/app"],
                    "Cmd": None,
                    "Env": ["A=b"],
                    "WorkingDir": "/srv",
                    "User": "1000:1000",
                    "StopSignal": "SIGINT",
                    "Labels": {"x": "y"},
                    "Volumes": {"/data": {}, "/cache": {}},
                    "ExposedPorts": {"80/tcp": {}},
                },
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
            },
            manifests.OCI_CONFIG,
        )
    )
    assert config.platform == Platform("linux", "arm64", "v8")
    assert (config.entrypoint, config.cmd, config.env) == (("/bin/app",), (), ("A=b",))
    assert (config.working_dir, config.user, config.stop_signal) == ("/srv", "1000:1000", "SIGINT")
    assert (config.volumes, config.exposed_ports) == (("/cache", "/data"), ("80/tcp",))
    assert config.diff_ids == (DIGEST,)


def test_child_labels_are_those_of_containerd() -> None:
    other = f"sha256:{'b' * 64}"
    target, data = described(
        MANIFEST | {"layers": [LAYER, LAYER | {"digest": other}]}, manifests.OCI_MANIFEST
    )
    assert manifests.child_labels(target, data) == {
        "containerd.io/gc.ref.content.config": DIGEST,
        "containerd.io/gc.ref.content.l.0": DIGEST,
        "containerd.io/gc.ref.content.l.1": other,
    }
    child = CONFIG | {"mediaType": manifests.OCI_MANIFEST}
    target, data = described(INDEX | {"manifests": [child]}, manifests.OCI_INDEX)
    assert manifests.child_labels(target, data) == {"containerd.io/gc.ref.content.m.0": DIGEST}

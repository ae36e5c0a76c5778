"""Debian's docker-registry, run for tests on a port of loopback, with its log of requests."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .images import SmallImage, make_image
from .ports import free_port

_ACCESS = re.compile(r'"(GET|HEAD|PUT|POST|PATCH|DELETE) (\S+) HTTP/[^"]*" (\d{3}) (\d+)')


SECRET_WORD = "$2b$04$5lS3LJlyMJOJKnPi2nEice1DdO9V/fsWYOYQuDVaHG14Bf2pOLxQK"
"""bcrypt of ``secret-word``."""


class Request(NamedTuple):
    """One line of the registry's log."""

    method: str
    path: str
    status: int
    bytes: int


class Registry:
    """A running docker-registry."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path, scheme: str) -> None:
        self._process = process
        self._folder = folder
        self._trust: ssl.SSLContext | None = None
        self.scheme = scheme
        self.address = f"127.0.0.1:{port}"

    @property
    def requests(self) -> list[Request]:
        """What it has been asked since it started, finished requests only."""
        text = (self._folder / "log").read_text(errors="replace")
        return [
            Request(method, path, int(status), int(size))
            for method, path, status, size in _ACCESS.findall(text)
        ]

    def fetched(self, digest: str) -> int:
        """How many times a blob was sent."""
        return sum(
            each.method == "GET" and each.path.endswith(f"/blobs/{digest}") and each.status in (200, 206)
            for each in self.requests
        )

    def push(self, name: str, image: SmallImage | None = None, *, authority: Path | None = None) -> str:
        """Store an image, of busybox by default, as ``repository:tag``; its full reference.

        :param authority: the certificate to trust, of a registry with TLS
        """
        self._trust = ssl.create_default_context(cafile=str(authority)) if authority else None
        image = image or make_image()
        repository, _, tag = name.partition(":")
        documents = {image.digest} | {each["digest"] for each in image.document().get("manifests", ())}
        for digest, data in image.blobs.items():
            if digest not in documents:
                self._put_blob(repository, digest, data)
        for digest in sorted(documents & set(image.blobs), key=lambda each: each == image.digest):
            media_type = image.document(digest)["mediaType"]
            self.put(f"{repository}/manifests/{digest}", image.blobs[digest], media_type)
        self.put(f"{repository}/manifests/{tag}", image.blobs[image.digest], image.target["mediaType"])
        return f"{self.address}/{name}"

    def _put_blob(self, repository: str, digest: str, data: bytes) -> None:
        url = f"{self.scheme}://{self.address}/v2/{repository}/blobs/uploads/"
        with urllib.request.urlopen(
            urllib.request.Request(url, method="POST", data=b""), timeout=10, context=self._trust
        ) as answer:
            location = answer.headers["Location"]
        joint = "&" if "?" in location else "?"
        request = urllib.request.Request(f"{location}{joint}digest={digest}", method="PUT", data=data)
        request.add_header("Content-Type", "application/octet-stream")
        urllib.request.urlopen(request, timeout=30, context=self._trust).close()

    def put(self, path: str, data: bytes, media_type: str) -> None:
        """Store a manifest, as ``REPOSITORY/manifests/NAME``."""
        url = f"{self.scheme}://{self.address}/v2/{path}"
        request = urllib.request.Request(url, method="PUT", data=data, headers={"Content-Type": media_type})
        urllib.request.urlopen(request, timeout=10, context=self._trust).close()

    def blob_file(self, digest: str) -> Path:
        """The file in which it keeps a blob, for a test to damage."""
        value = digest.partition(":")[2]
        return self._folder / f"data/docker/registry/v2/blobs/sha256/{value[:2]}/{value}/data"


@contextmanager
def registry(*, htpasswd: str = "", tls: tuple[Path, Path] | None = None) -> Iterator[Registry]:
    """A registry with empty storage of its own, stopped and deleted at the end.

    :param htpasswd: lines of a file of bcrypt passwords; whoever asks must be in it then
    :param tls: certificate and key
    """
    folder = Path(tempfile.mkdtemp(prefix="registry-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        for _ in range(5):
            port = free_port()
            process = _start(folder, port, htpasswd, tls)
            if _listens(process, port):
                break
            process.kill()
            process.wait()
        else:
            raise RuntimeError(f"docker-registry does not start: {(folder / 'log').read_text()[-2000:]}")
        yield Registry(process, port, folder, "https" if tls else "http")
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, port: int, htpasswd: str, tls: tuple[Path, Path] | None) -> subprocess.Popen[bytes]:
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": "of tests"},
    }
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    if tls:
        config["http"] = {
            "addr": f"127.0.0.1:{port}",
            "secret": "of tests",
            "tls": {"certificate": str(tls[0]), "key": str(tls[1])},
        }
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process.poll() is None
    return False

"""A registry that misbehaves as a test tells it: hangs, lies, breaks off, asks for tokens."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from .images import SmallImage

_PATH = re.compile(r"/v2/(.+)/(manifests|blobs)/([^/?]+)")


class Seen(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    peer: tuple[str, int] = ("", 0)
    """The client's end of the connection."""

    def header(self, name: str) -> str:
        """A header's value, or ""."""
        return self.headers.get(name.lower(), "")


class Handler(BaseHTTPRequestHandler):
    """One connection. A fault is called with it and may answer in the registry's stead."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, a fault first."""
        registry = self.registry
        headers = {key.lower(): value for key, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, self.client_address)
        with registry.lock:
            registry.seen.append(seen)
        for fault in list(registry.faults):
            if fault(self, seen):
                return
        self.serve()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

    @property
    def registry(self) -> FaultyRegistry:
        """What the test sees."""
        assert isinstance(self.server, _Server)
        return self.server.registry

    def serve(self) -> None:
        """Answer as a registry does."""
        image = self.registry.image
        match = _PATH.fullmatch(self.path.partition("?")[0])
        if match is None or image is None:
            self.answer(404)
            return
        _, kind, name = match.groups()
        digest = name if ":" in name else image.digest
        data = image.blobs.get(digest)
        if data is None:
            self.answer(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"nothing like that"}]}')
        elif kind == "manifests":
            media_type = image.document(digest)["mediaType"]
            headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
            self.answer(200, data, headers)
        else:
            self.send_blob(data)

    def send_blob(self, data: bytes) -> None:
        """A blob, or the range that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked:
            start = int(asked[1])
            headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self.answer(206, data[start:], headers)
        else:
            self.answer(200, data)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self.registry.over.wait(30)
        self.close_connection = True

    def cut(self, data: bytes, after: int) -> None:
        """Promise ``data`` and break off."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:after])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the test's output is its own."""


Fault = Callable[[Handler, Seen], bool]
"""Looks at a request; True when it has answered it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    registry: FaultyRegistry

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the test."""


class FaultyRegistry:
    """What the test sees: the image served, the faults, the requests."""

    def __init__(self, image: SmallImage | None) -> None:
        self.image = image
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.address = ""

    @property
    def served(self) -> SmallImage:
        """The image, for a test that gave one."""
        assert self.image is not None
        return self.image

    @property
    def reference(self) -> str:
        """The image's name here."""
        return f"{self.address}/test/image:1"

    def on(self, pattern: str, fault: Callable[[Handler], object], *, times: int = 1 << 30) -> None:
        """Have ``fault`` answer the first ``times`` requests whose ``METHOD PATH`` matches."""
        left = times

        def look(handler: Handler, seen: Seen) -> bool:
            nonlocal left
            if not re.search(pattern, f"{seen.method} {seen.path}"):
                return False
            with self.lock:
                if not left:
                    return False
                left -= 1
            fault(handler)
            return True

        self.faults.append(look)

    def asked(self, pattern: str) -> list[Seen]:
        """The requests whose ``METHOD PATH`` matches."""
        with self.lock:
            return [each for each in self.seen if re.search(pattern, f"{each.method} {each.path}")]


@contextmanager
def faulty_registry(
    image: SmallImage | None = None, *, tls: ssl.SSLContext | None = None
) -> Iterator[FaultyRegistry]:
    """A server on loopback for the length of the block, with TLS where a context is given."""
    registry = FaultyRegistry(image)
    with _Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.registry = registry
        registry.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            registry.over.set()
            server.shutdown()
            thread.join(10)

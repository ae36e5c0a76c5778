"""Debian's nginx before a registry: TLS with HTTP/2 on a port of loopback, and its log of requests."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .ports import free_port

_CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error;
events {{}}
http {{
    log_format tests '$server_protocol $connection $request_method $request_uri $status "$http_range"';
    access_log {folder}/log tests;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    keepalive_requests {requests};
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        {more}
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto https;
        }}
    }}
}}
"""
_LINE = re.compile(r'(HTTP/[0-9.]+) (\d+) (\S+) (\S+) (\d+) "([^"]*)"')


class Asked(NamedTuple):
    """One line of the log."""

    protocol: str
    connection: str
    method: str
    path: str
    status: int
    range: str


class Front:
    """A running nginx."""

    def __init__(self, port: int, folder: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        self._folder = folder

    @property
    def requests(self) -> list[Asked]:
        """What it has been asked, finished requests only."""
        found = _LINE.findall((self._folder / "log").read_text())
        return [
            Asked(protocol, connection, method, path, int(status), asked)
            for protocol, connection, method, path, status, asked in found
        ]


@contextmanager
def nginx(
    upstream: str, certificate: Path, key: Path, *, requests: int = 1000, more: str = ""
) -> Iterator[Front]:
    """Run nginx before ``upstream`` until the context is left.

    :param requests: how many requests a connection serves before it is told to go away
    :param more: further directives of the server
    """
    program = "/usr/sbin/nginx"
    with tempfile.TemporaryDirectory(prefix="nginx-", dir="/tmp") as name:
        folder = Path(name)
        port = free_port()
        config = folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                folder=folder,
                port=port,
                certificate=certificate,
                key=key,
                upstream=upstream,
                requests=requests,
                more=more,
            )
        )
        server = subprocess.Popen(
            [program, "-c", config, "-e", folder / "error"], env={**os.environ}, stdin=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 30
            while not _listens(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nginx does not serve: {(folder / 'error').read_text()[-2000:]}")
                time.sleep(0.02)
            yield Front(port, folder)
        finally:
            server.terminate()
            server.wait(30)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

"""Certificates: whom to trust, and who to be. Read off the event loop, and again when a file changed."""

from __future__ import annotations

import os
import ssl

from anyio import to_thread

from orlopd.plugin.errors import FailedPrecondition

from .endpoints import SYSTEM_TRUST, Tls

_Stamps = tuple[int, ...]


class TlsTrust:
    """Makes TLS contexts and keeps them for the next connection."""

    def __init__(self) -> None:
        self._system: ssl.SSLContext | None = None
        self._contexts: dict[Tls, tuple[_Stamps, ssl.SSLContext]] = {}

    async def context(self, tls: Tls = SYSTEM_TRUST) -> ssl.SSLContext:
        """A context that connections share.

        :raises FailedPrecondition: a file cannot be read or is no certificate
        """
        if tls == SYSTEM_TRUST:
            if self._system is None:
                self._system = await to_thread.run_sync(_system_trust)
            return self._system
        return await to_thread.run_sync(self._special, tls)

    def _special(self, tls: Tls) -> ssl.SSLContext:
        stamps = _stamps(tls)
        known = self._contexts.get(tls)
        if known is None or known[0] != stamps:
            known = self._contexts[tls] = (stamps, _special_trust(tls))
        return known[1]


def _stamps(tls: Tls) -> _Stamps:
    files = [*tls.authorities, *(name for pair in tls.pairs for name in pair if name)]
    try:
        return tuple(os.stat(file).st_mtime_ns for file in files)  # noqa: PTH116
    except OSError as error:
        raise _unreadable(str(error.filename), error) from None


def _special_trust(tls: Tls) -> ssl.SSLContext:
    context = _system_trust()
    for file in tls.authorities:
        try:
            context.load_verify_locations(cafile=file)
        except OSError as error:  # ssl.SSLError is one
            raise _unreadable(file, error) from None
    for certificate, key in tls.pairs:
        try:
            context.load_cert_chain(certificate, key or None, password=_no_password)
        except (OSError, ValueError) as error:
            raise _unreadable(certificate, error) from None
    if tls.skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    """Without this OpenSSL asks at the terminal."""
    raise ValueError("the key is encrypted")


def _unreadable(file: str, error: Exception) -> FailedPrecondition:
    strerror = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else ""
    return FailedPrecondition(
        f"certificate {file} cannot be used: {(strerror or str(error)).lower()[:200]}",
        reason="BAD_CERTIFICATE",
        resource=f"file {file}",
        hint="it is to be PEM, with its key beside it or in it",
    )


def _system_trust() -> ssl.SSLContext:
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        # A bare system without ca-certificates: what httpx brings is better than nothing.
        import certifi

        context.load_verify_locations(certifi.where())
    return context

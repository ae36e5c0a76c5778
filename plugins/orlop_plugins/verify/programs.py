"""Programs that judge images, called as containerd calls its image verifiers.

Each gets ``-name NAME -digest DIGEST -stdin-media-type TYPE`` and the descriptor as JSON on its standard
input. Exit code 0 lets the image pass; its standard output is the reason, its standard error is logged.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from anyio.abc import ByteReceiveStream, Process

from orlopd.plugin.errors import FailedPrecondition, PermissionDenied
from orlopd.plugin.values import Descriptor

_DESCRIPTOR_TYPE = "application/vnd.oci.descriptor.v1+json"
_MOST_OUTPUT = 16 << 10


class Programs:
    """A :class:`orlopd.plugin.verifier.Verifier`.

    :param most: the most programs asked; below 0 is no limit
    :param seconds: that one has to answer
    """

    def __init__(self, folder: str, most: int, seconds: float, log: logging.Logger) -> None:
        self._folder = Path(folder)
        self._most = most
        self._seconds = seconds
        self._log = log

    async def verify(self, namespace: str, name: str, target: Descriptor) -> None:
        """See :class:`orlopd.plugin.verifier.Verifier`."""
        names = await to_thread.run_sync(self._names)
        if 0 <= self._most < len(names):
            self._log.warning("%d verifiers in %s are passed over", len(names) - self._most, self._folder)
            names = names[: self._most]
        for each in names:
            code, reason = await self._ask(each, name, target)
            if code:
                said = reason or f"exit code {code}"
                raise PermissionDenied(
                    f"verifier {each} rejected image {name} ({target.digest}): {said}",
                    reason="IMAGE_REJECTED",
                    resource=f"image {name}",
                )

    def _names(self) -> Sequence[str]:
        try:
            return sorted(each.name for each in self._folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise self._broken(str(self._folder), error.strerror or "cannot be read") from None

    async def _ask(self, program: str, name: str, target: Descriptor) -> tuple[int, str]:
        words = ["-name", name, "-digest", target.digest, "-stdin-media-type", _DESCRIPTOR_TYPE]
        try:
            process = await anyio.open_process(
                [str(self._folder / program), *words], stdin=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            raise self._broken(program, f"cannot be run: {(error.strerror or '').lower()}") from None
        out, err = bytearray(), bytearray()
        try:
            with anyio.fail_after(self._seconds):
                async with anyio.create_task_group() as group:
                    group.start_soon(_feed, process, _document(target))
                    group.start_soon(_read, process.stdout, out)
                    group.start_soon(_read, process.stderr, err)
                code = await process.wait()
        except TimeoutError:
            raise self._broken(program, f"did not answer within {self._seconds:g} s") from None
        finally:
            await _end(process)
            for line in err.decode(errors="replace").splitlines():
                self._log.debug("verifier %s: %s", program, line)
        if code < 0:
            raise self._broken(program, f"was ended by {signal.Signals(-code).name}")
        return code, " ".join(out.decode(errors="replace").split())[:1000]

    @staticmethod
    def _broken(program: str, what: str) -> FailedPrecondition:
        return FailedPrecondition(
            f"verifier {program} {what}: no image is let in without its judgement",
            reason="VERIFIER_FAILED",
            resource=f"verifier {program}",
        )


async def _feed(process: Process, data: bytes) -> None:
    assert process.stdin is not None
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await process.stdin.send(data)
    with suppress(anyio.BrokenResourceError, OSError):
        await process.stdin.aclose()


async def _read(stream: ByteReceiveStream | None, into: bytearray) -> None:
    """To the end, keeping the beginning: a program is not to break because it talks much."""
    assert stream is not None
    async for chunk in stream:
        into += chunk[: max(0, _MOST_OUTPUT - len(into))]


async def _end(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        # Also when it has ended: what it left behind may hold its output open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await process.aclose()


def _document(target: Descriptor) -> bytes:
    document: dict[str, Any] = {
        "mediaType": target.media_type,
        "digest": target.digest,
        "size": target.size,
    }
    if target.annotations:
        document["annotations"] = dict(target.annotations)
    return json.dumps(document).encode()

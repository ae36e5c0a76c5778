"""The formats of a container's log: how one line of it is written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping

Line = Callable[[bytes, int, bytes, bool], bytes]
"""A line of the file from a time, the stream, the text, and whether the text ended with a newline."""

_NAMES = {1: "stdout", 2: "stderr"}


def now() -> bytes:
    """The time, as RFC 3339 has it, with nanoseconds."""
    nanos = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nanos // 10**9)).encode() + b".%09dZ" % (
        nanos % 10**9
    )


def cri_line(at: bytes, stream: int, text: bytes, whole: bool) -> bytes:
    """The Kubernetes container runtime interface's: ``2006-01-02T15:04:05.999999999Z stdout F text``.

    F (full) stands for text that ended with a newline; P (partial) for a piece, to be joined with the next of
    its stream.
    """
    return b"%b %b %b %b\n" % (at, _NAMES[stream].encode(), b"F" if whole else b"P", text)


def json_line(at: bytes, stream: int, text: bytes, whole: bool) -> bytes:
    """Docker's json-file: ``{"log": "text\\n", "stream": "stdout", "time": "…"}``; a piece has no newline.

    Bytes that are not UTF-8 become the lone surrogates U+DC80 to U+DCFF (PEP 383), escaped: none is lost.
    """
    said = (text + b"\n" if whole else text).decode("utf-8", "surrogateescape")
    line = {"log": said, "stream": _NAMES[stream], "time": at.decode()}
    try:
        return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"


FORMATS: Mapping[str, Line] = {"cri": cri_line, "json": json_line}

"""How a :class:`Stdio` travels in the three strings that containerd's task API has for streams.

What containerd knows (a FIFO's path, ``file://``, ``binary://``) travels as it is. What is ours travels as
``attach:?log=PATH&to=SINK&hold=1``: streams kept for attached clients, a log, and beside them whatever sink
the plain form would have named.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode

from orlopd.plugin.errors import InvalidArgument
from orlopd.plugin.runtime import Stdio

_SCHEME = "attach:"


def encode(stdio: Stdio) -> tuple[str, str, str]:
    """The strings for stdin, stdout and stderr of a request."""
    if not (stdio.attach or stdio.hold_stdin or stdio.log):
        return stdio.stdin, stdio.stdout, stdio.stderr
    stdin = stdio.stdin
    if stdio.hold_stdin:
        stdin = _join(to=stdio.stdin, hold="1")
    stdout = _join(to=stdio.stdout, log=stdio.log, attach="1" if stdio.attach else "")
    return stdin, stdout, stdio.stderr


def decode(stdin: str, stdout: str, stderr: str, terminal: bool) -> Stdio:
    """What :func:`encode` was given.

    :raises InvalidArgument: an ``attach:`` string that it never makes
    """
    to_stdin = _split(stdin)
    to_stdout = _split(stdout)
    return Stdio(
        stdin=to_stdin.get("to", ""),
        stdout=to_stdout.get("to", ""),
        stderr=stderr,
        terminal=terminal,
        attach="attach" in to_stdout,
        hold_stdin="hold" in to_stdin,
        log=to_stdout.get("log", ""),
    )


def _join(**fields: str) -> str:
    return f"{_SCHEME}?{urlencode({key: value for key, value in fields.items() if value})}"


def _split(text: str) -> dict[str, str]:
    if not text.startswith(_SCHEME):
        return {"to": text} if text else {}
    try:
        fields = parse_qs(text.removeprefix(_SCHEME).removeprefix("?"), strict_parsing=True)
    except ValueError as error:
        raise InvalidArgument(f"malformed stream {text!r}: {error}") from error
    return {key: values[0] for key, values in fields.items()}

"""Signals by name or number, as people and images write them."""

from __future__ import annotations

import re
import signal

from orlopd.plugin.errors import InvalidArgument

_REALTIME = re.compile(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?")


def parse_signal(text: str) -> int:
    """The number of ``TERM``, ``SIGTERM``, ``15`` or ``RTMIN+3``.

    :raises InvalidArgument: there is no such signal
    """
    word = text.strip().upper()
    number = 0
    if word.isascii() and word.isdecimal() and len(word) <= 3:
        number = int(word)
    elif match := _REALTIME.fullmatch(word.removeprefix("SIG")):
        # A C library keeps the first two real-time signals, so that programs count from 34.
        base = signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX
        number = base + int((match[2] or "+") + (match[3] or "0"))
        number = number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0
    else:
        full = word if word.startswith("SIG") else f"SIG{word}"
        number = int(signal.Signals.__members__.get(full, 0))
    if not 1 <= number <= 64:
        raise InvalidArgument(
            f"there is no signal {text[:40]!r}",
            reason="UNKNOWN_SIGNAL",
            hint="signal(7) lists them; TERM, SIGTERM and 15 are the same",
        )
    return number

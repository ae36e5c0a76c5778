"""Runs the real ``ctr`` and masks what may differ between two daemons: times, pids, sizes, folders."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_MASKS: tuple[tuple[str, str], ...] = (
    (r'"lowerdir=[^"]*"|"upperdir=[^"]*"|"workdir=[^"]*"', '"DIR"'),
    (
        r'"(?:DIR|index=off|userxattr|metacopy=off|redirect_dir=off)"(?:,"(?:DIR|index=off|userxattr)")*',
        "OVERLAY",
    ),
    (r'(?:"OVERLAY"|OVERLAY)(?:,OVERLAY)*', "OVERLAY"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z| ?[+-]\d\d:?\d\d(?: UTC)?)", "TIME"),
    (r'time="TIME" ', ""),
    (r"\b(?:Less than a second|About a (?:second|minute)|\d+ (?:seconds?|minutes?))(?: ago)?\b", "AGE"),
    (r"/run/containerd/fifo/\d+", "FIFOS"),
    (r"mount -t bind \S+", "mount -t bind SOURCE"),
    (r'"source":"[^"]*"', '"source":SOURCE'),
    (r"\bextract-\d+-\S+", "extract-N"),
    (r'snapshot "default/\d+/', 'snapshot "default/N/'),
    (r'"bundle":"[^"]*"', '"bundle":BUNDLE'),
    (r'"pid":\d+', '"pid":PID'),
    (r"(UUID:) +\S+", r"\1 UUID"),
    (r"(\d+(?:\.\d+)?) (?:B|[KMG]iB)(?=\s)", "SIZE"),
    (r"elapsed: [\d.]+ ?s", "elapsed: TIME"),
    (r"total: *[\d.]+ (?:B|[KMG]iB)? *\([^)]*\)", "total: RATE"),
    (r"time: [\d.]+m?s", "time: TIME"),
)


def masked(text: str, *more: tuple[str, str]) -> str:
    """``text`` without what may differ; runs of blanks become one, for columns are as wide as their cells."""
    for pattern, to in (*more, *_MASKS):
        text = re.sub(pattern, to, text)
    text = re.sub(r"\S+", _labels_in_order, text)
    return re.sub(r"[ \t]+", " ", text).strip()


def _labels_in_order(found: re.Match[str]) -> str:
    cells = found[0].split(",")
    return ",".join(sorted(cells)) if all("=" in cell for cell in cells) else found[0]


@dataclass(frozen=True)
class Said:
    """What one run of ctr said."""

    code: int
    out: str
    err: str


def ctr(address: str, *words: str, stdin: bytes = b"", hold: float = 0, timeout: float = 30) -> Said:
    """Run ``ctr`` against a daemon.

    :param hold: seconds between writing ``stdin`` and ending it: this ctr forgets to tell containerd of
        an end of input that comes before its task is made
    """
    with subprocess.Popen(
        ["ctr", "-a", address, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        feeder = threading.Thread(target=_feed, args=(process.stdin, stdin, hold))
        feeder.start()
        try:
            assert process.stdout
            assert process.stderr
            errors: list[bytes] = []
            drain = threading.Thread(target=lambda: errors.append(process.stderr.read()))  # type: ignore[union-attr]
            drain.start()
            killer = threading.Timer(timeout, process.kill)
            killer.start()
            out = process.stdout.read()
            drain.join()
            code = process.wait()
            if not killer.is_alive():
                raise TimeoutError(
                    f"ctr {' '.join(words)} took over {timeout} s at {address}: {out!r} {errors!r}"
                )
            killer.cancel()
        finally:
            process.kill()
            feeder.join()
    return Said(code, out.decode(errors="replace"), errors[0].decode(errors="replace"))


def _feed(pipe: IO[bytes], data: bytes, hold: float) -> None:
    with contextlib.suppress(BrokenPipeError):
        pipe.write(data)
        pipe.flush()
    time.sleep(hold)
    with contextlib.suppress(BrokenPipeError):
        pipe.close()


@contextlib.contextmanager
def events_in(log: Path, address: str, *filters: str, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Have ``ctr events`` write into a file. The block begins when it hears what happens: it has heard of a
    namespace ``probe-...`` that was made for that and is gone again.

    :param filters: of which one must match, if there are any; namespaces are heard of besides
    """
    more = ("topic~=/namespaces/",) if filters else ()
    ask = ["ctr", "-a", address]
    with log.open("wb") as out:
        listener = subprocess.Popen([*ask, "events", *filters, *more], stdout=out, stderr=out, env=env)
        try:
            _wait_until_heard(ask, log)
            yield
        finally:
            listener.terminate()
            listener.wait(20)


def _wait_until_heard(ask: Sequence[str], log: Path) -> None:
    deadline = time.monotonic() + 30
    for number in itertools.count():
        name = f"probe-{secrets.token_hex(4)}-{number}"
        subprocess.run([*ask, "namespaces", "create", name], check=True, timeout=30, capture_output=True)
        subprocess.run([*ask, "namespaces", "rm", name], check=True, timeout=30, capture_output=True)
        patience = time.monotonic() + 0.5
        while time.monotonic() < patience:
            # Of the last one, the very end: nothing of these comes after that.
            if any(name in line and "/namespaces/delete" in line for line in log.read_text().splitlines()):
                return
            time.sleep(0.02)
        assert time.monotonic() < deadline, f"ctr events hears nothing: {log.read_text()}"


def in_columns(text: str, kept: Sequence[int]) -> str:
    """Only the columns with these numbers, of every line."""
    rows = [line.split() for line in text.splitlines()]
    return "\n".join(" ".join(row[i] for i in kept if i < len(row)) for row in rows)

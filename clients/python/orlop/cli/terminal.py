"""The person's terminal: raw mode, size, detach keys; and reading and writing that never block the loop."""

from __future__ import annotations

import errno
import os
import select
import signal
import string
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import anyio
from anyio import to_thread

from orlop.values import WindowSize

READ_BYTES = 64 << 10
DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
CONTROL = {**{c: ord(c) - ord("a") + 1 for c in string.ascii_lowercase}, "@": 0, "[": 27, "\\": 28, "]": 29}
CONTROL |= {"^": 30, "_": 31}


def window_size(*descriptors: int) -> WindowSize | None:
    """The size of the first of these that is a terminal, None when none is."""
    for descriptor in descriptors:
        try:
            columns, lines = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return WindowSize(columns, lines)
    return None


class Terminal:
    """A terminal that is switched to raw mode and back."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[object] | None = None

    @contextmanager
    def raw(self) -> Iterator[None]:
        """Raw while this is entered; as it was afterwards, whatever happens."""
        self._saved = termios.tcgetattr(self._descriptor)
        try:
            self.set_raw()
            yield
        finally:
            # A terminal that is gone needs nothing; one whose window is full must not hold us up either.
            with suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSANOW, self._saved)  # pyright: ignore[reportArgumentType]

    def set_raw(self) -> None:
        """Raw now; also for after this process was stopped, when the shell has put its own mode back."""
        with suppress(termios.error):
            tty.setraw(self._descriptor, termios.TCSANOW)


def detach_sequence(keys: str) -> bytes:
    """The bytes of detach keys as Docker spells them: "ctrl-p,ctrl-q", "ctrl-@", "a,b"; empty means none.

    :raises ValueError: they are spelled otherwise
    """
    sequence = bytearray()
    for key in filter(None, keys.split(",")):
        if len(key) == 1 and key.isascii():
            sequence += key.encode()
        elif key.startswith("ctrl-") and key[5:].lower() in CONTROL:
            sequence.append(CONTROL[key[5:].lower()])
        else:
            raise ValueError(
                f"{key!r} is no detach key: write a letter, or ctrl- and a letter or one of @ [ \\ ] ^ _"
            )
    return bytes(sequence)


class DetachScanner:
    """Finds the detach keys in what is typed. What may be their beginning is held back until it is clear."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the keys were typed; what follows them is dropped."""
        if not self._sequence:
            return data, False
        data = self._held + data
        found = data.find(self._sequence)
        if found >= 0:
            self._held = b""
            return data[:found], True
        for length in range(min(len(self._sequence) - 1, len(data)), 0, -1):
            if data.endswith(self._sequence[:length]):
                self._held = data[-length:]
                return data[:-length], False
        self._held = b""
        return data, False


async def chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What can be read from a descriptor, until its end: terminal, pipe, socket, file or /dev/null.

    The descriptor stays blocking, as its open file is shared with other programs, the shell among them.
    """
    while True:
        await readable(descriptor)
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno == errno.EIO:
                return  # the terminal is gone
            raise
        if not data:
            return
        yield data


async def readable(descriptor: int) -> None:
    """Wait until a descriptor has something to read; files and /dev/null always have."""
    try:
        await anyio.wait_readable(descriptor)
    except PermissionError:
        await anyio.lowlevel.checkpoint()


async def write(descriptor: int, data: bytes) -> None:
    """Write all of it. A reader that is slow makes this wait, in a thread: signals and input are seen to
    meanwhile.

    :raises BrokenPipeError: nobody reads any more
    """
    await to_thread.run_sync(_write, descriptor, data, abandon_on_cancel=True)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that hung up
                raise BrokenPipeError from None
            raise


FORWARDED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
STOPPING = (signal.SIGINT, signal.SIGTERM)


def signal_name(number: int) -> str:
    """A signal's name without "SIG"."""
    return signal.Signals(number).name.removeprefix("SIG")

"""A terminal as a person has it: a private tmux server with one window."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self


class Terminal:
    """A window of ``width`` by ``height`` cells with a shell in it; a context manager."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], width: int = 100, height: int = 30
    ) -> None:
        self._server = f"orlop-{secrets.token_hex(4)}"
        self._folder = folder
        self._environment = dict(environment)
        self._size = (width, height)

    def __enter__(self) -> Self:
        width, height = self._size
        shell = "env PS1='host> ' TERM=screen bash --norc --noprofile -i"
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), shell)
        self.wait_for("host>")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tmux("kill-server", check=False)

    def _tmux(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._server, *words],
            capture_output=True,
            text=True,
            env=self._environment,
            cwd=self._folder,
            timeout=30,
        )
        if check and done.returncode:
            raise RuntimeError(f"tmux {shlex.join(words)}: {done.stderr}")
        return done.stdout

    def type(self, text: str) -> None:
        """Type a line and press enter."""
        self._tmux("send-keys", "-l", text)
        self._tmux("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: ``C-c``, ``Left``."""
        self._tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self) -> str:
        """What is to be seen, what has scrolled away included."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-200")

    def wait_for(self, text: str, seconds: float = 30, count: int = 1) -> str:
        """The screen as soon as ``text`` is on it ``count`` times.

        :raises TimeoutError: it did not come
        """
        deadline = time.monotonic() + seconds
        while (screen := self.screen()).count(text) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} did not appear; the screen:\n{screen}")
            time.sleep(0.05)
        return screen


def once_of_size(rows: int, columns: int) -> str:
    """A line for a shell that says the size of its terminal as soon as it is this one. The line itself does
    not say it, for what was typed is on the screen, too."""
    return f'rows="{rows} "; until [ "$(stty size)" = "${{rows}}{columns}" ]; do sleep 0.1; done; stty size'

"""How a pull or a push looks: a bar per layer on a terminal, else a line per step; on standard error."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from orlop.cli.format import printable, short, size
from orlop.values import BlobKind, BlobProgress, BlobState, Resolved

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

WORDS = {
    BlobState.WAITING: "waiting",
    BlobState.FETCHING: "fetching",
    BlobState.FETCHED: "fetched",
    BlobState.EXISTS: "here already",
    BlobState.UNPACKING: "unpacking",
    BlobState.UNPACKED: "unpacked",
    BlobState.PUSHING: "pushing",
    BlobState.PUSHED: "pushed",
    BlobState.MOUNTED: "mounted",
}
DONE = (
    *(BlobState.EXISTS, BlobState.FETCHED, BlobState.UNPACKED),
    *(BlobState.PUSHED, BlobState.MOUNTED),
)
MOVING = (BlobState.FETCHING, BlobState.PUSHING)


class Display:
    """Shows progress while it is entered; this one shows nothing.

    ``step`` takes whatever a pull or a run tells and ignores what it does not show.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop showing; what was shown stays unless it is transient."""

    def step(self, event: Any) -> None:
        """Take in what happened."""


def display(*, quiet: bool = False, transient: bool = False) -> Display:
    """The display that fits standard error. A transient one is gone when it is left."""
    if quiet:
        return Display()
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return Live(transient)
    return Lines()


class Lines(Display):
    """A line for each step of each blob, without the bytes in between."""

    def __init__(self) -> None:
        self._last: dict[str, BlobState] = {}

    def step(self, event: Any) -> None:
        match event:
            case Resolved():
                self._print(f"{printable(event.name)}: resolved {event.digest}")
            case BlobProgress():
                if self._last.get(event.digest) == event.state:
                    return
                self._last[event.digest] = event.state
                if event.state in (BlobState.WAITING, BlobState.UNPACKING) or event.state not in WORDS:
                    return
                amount = f" {size(event.total)}" if event.state in MOVING and event.total else ""
                kind = "blob" if event.kind == BlobKind.UNSPECIFIED else event.kind.value
                self._print(f"{kind} {short(event.digest)}: {WORDS[event.state]}{amount}")
            case _:
                pass

    def _print(self, line: str) -> None:
        click.echo(line, err=True)


class Live(Display):
    """A bar for each layer."""

    def __init__(self, transient: bool) -> None:
        self._transient = transient
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def step(self, event: Any) -> None:
        match event:
            case Resolved():
                click.echo(f"{printable(event.name)}: resolved {event.digest}", err=True)
            case BlobProgress(kind=BlobKind.LAYER):
                self._layer(event)
            case _:
                pass

    def _layer(self, event: BlobProgress) -> None:
        progress = self._started()
        done = event.state in DONE
        total = event.total or (1 if done else None)
        completed = total if done and total else event.current
        words: dict[str, Any] = {"state": WORDS.get(event.state, ""), "amount": amount(event)}
        task = self._tasks.get(event.digest)
        if task is None:
            name = short(event.digest)
            self._tasks[event.digest] = progress.add_task(name, total=total, completed=completed, **words)
        else:
            progress.update(task, total=total, completed=completed, **words)

    def _started(self) -> Progress:
        # Drawn from the first layer on: running an image that is here draws nothing, and loads nothing.
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                TextColumn("{task.fields[state]:<12}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[amount]}"),
                console=Console(stderr=True),
                transient=self._transient,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._progress.start()
        return self._progress


def amount(event: BlobProgress) -> str:
    """How much of how much."""
    if event.state in (*MOVING, BlobState.UNPACKING) and event.total:
        rate = f" {size(event.rate)}/s" if event.rate else ""
        return f"{size(event.current)} / {size(event.total)}{rate}"
    if event.state in MOVING:
        return size(event.current)
    return size(event.total) if event.total else ""

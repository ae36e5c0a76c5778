"""The daemon's log, on standard error: for people on a terminal, for journald, or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

from orlopd.config.model import LogFormat, LogLevel

_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}


class _Text(logging.Formatter):
    """``12:30:01 warning snapshotter.vfs: message``, in colour on a terminal."""

    def __init__(self, *, terminal: bool, journal: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        parts: list[str] = []
        at = datetime.fromtimestamp(record.created, UTC).astimezone()
        if self._terminal:
            parts.append(at.strftime("%H:%M:%S"))
        elif not self._journal:
            # The journal has the time already.
            parts.append(at.isoformat(timespec="milliseconds"))
        level = record.levelname.lower()
        colour = _COLOURS.get(record.levelname) if self._terminal else None
        parts.append(f"\x1b[{colour}m{level:<7}\x1b[0m" if colour else f"{level:<7}")
        parts.append(f"{_name(record)}: {record.getMessage()}")
        line = " ".join(parts)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the exception's trace if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": _name(record),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _name(record: logging.LogRecord) -> str:
    return record.name.removeprefix("orlop.")


def configure(level: LogLevel, format: LogFormat) -> None:
    """Send the log to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        handler.setFormatter(_Json())
    else:
        terminal = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        handler.setFormatter(_Text(terminal=terminal, journal="JOURNAL_STREAM" in os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak up when something is wrong; their debug lines are not about this daemon.
    root.setLevel(logging.WARNING)
    for name in ("orlop", "orlopd"):
        logging.getLogger(name).setLevel(level.upper())
    logging.captureWarnings(True)

"""How to find out whether what runs in a container works, as images and requests say it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orlopd.plugin.errors import InvalidArgument

SHORTEST = 0.1  # seconds between two checks that a request may ask for
_SHORTEST_OF_IMAGE = 1.0  # an image is not to load the machine
_LONGEST = 86_400.0
_MOST_RETRIES = 1000
_DEFAULT = (30.0, 30.0, 0.0, 5.0, 3)


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """A check; times in seconds. What is 0 or empty is not said.

    :param test: ``CMD`` and a command, ``CMD-SHELL`` and a line for a shell, or ``NONE``
    :param start_period: how long after a start failures do not count, and ``start_interval`` is the interval
    """

    test: tuple[str, ...] = ()
    interval: float = 0.0
    timeout: float = 0.0
    start_period: float = 0.0
    start_interval: float = 0.0
    retries: int = 0

    @property
    def command(self) -> tuple[str, ...]:
        """What to run."""
        return ("/bin/sh", "-c", *self.test[1:]) if self.test[0] == "CMD-SHELL" else self.test[1:]


def resolve_check(asked: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    """The check of a container: what a request says, else what its image says, else the defaults.

    None for no check.

    :raises InvalidArgument: the request is malformed
    """
    if asked is not None:
        _check(asked)
    asked, image = asked or Healthcheck(), _usable(image)
    test = asked.test or image.test
    if not test or test[0] == "NONE":
        return None
    interval, timeout, start_period, start_interval, retries = _DEFAULT
    return Healthcheck(
        test,
        asked.interval or image.interval or interval,
        asked.timeout or image.timeout or timeout,
        asked.start_period or image.start_period or start_period,
        asked.start_interval or image.start_interval or start_interval,
        asked.retries or image.retries or retries,
    )


def _check(asked: Healthcheck) -> None:
    if asked.test and not _well_formed(asked.test):
        raise InvalidArgument(
            f"malformed health check {list(asked.test)[:4]!r}: want CMD and a command, CMD-SHELL and one "
            "line, or NONE",
            reason="BAD_HEALTHCHECK",
        )
    for name in ("interval", "timeout", "start_period", "start_interval"):
        value: float = getattr(asked, name)
        if value and not SHORTEST <= value <= _LONGEST:
            raise InvalidArgument(
                f"health check: {name} of {value:g} s: {SHORTEST:g} to {_LONGEST:g} are possible",
                reason="BAD_HEALTHCHECK",
            )
    if not 0 <= asked.retries <= _MOST_RETRIES:
        raise InvalidArgument(f"health check: more than {_MOST_RETRIES} retries", reason="BAD_HEALTHCHECK")


def _usable(image: Healthcheck | None) -> Healthcheck:
    """An image's word as far as it makes sense: an image is not worth failing for its check."""
    if image is None or not _well_formed(image.test):
        return Healthcheck()

    def sane(seconds: float) -> float:
        return min(max(seconds, _SHORTEST_OF_IMAGE), _LONGEST) if seconds > 0 else 0.0

    return replace(
        image,
        interval=sane(image.interval),
        timeout=sane(image.timeout),
        start_period=sane(image.start_period),
        start_interval=sane(image.start_interval),
        retries=min(image.retries, _MOST_RETRIES),
    )


def _well_formed(test: tuple[str, ...]) -> bool:
    if any("\0" in word for word in test):
        return False
    match test:
        case ("NONE",) | ("CMD-SHELL", _):
            return True
        case ("CMD", first, *_):
            return bool(first)
        case _:
            return False

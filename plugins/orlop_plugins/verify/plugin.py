"""Registers the verifiers."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from orlopd.plugin import Config, Context, Provider, hookimpl
from orlopd.plugin.verifier import Verifier

from .pins import Pins
from .programs import Programs


class PinsConfig(Config):
    """``[plugins.verifier.pins]``"""

    digests: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description=(
            "Digests that images must have: by reference, by repository, or by the beginning of one with *."
        ),
    )
    required: bool = Field(
        default=False, description="Whether an image that nothing here is about is refused."
    )


class ProgramsConfig(Config):
    """``[plugins.verifier.bindir]``, with containerd's keys."""

    bin_dir: str = Field(
        default="/opt/orlop/image-verifier/bin",
        description="The folder of programs that are asked about each image; none are where there is none.",
    )
    max_verifiers: int = Field(
        default=10, description="The most programs asked, in order of name; -1 is all."
    )
    per_verifier_timeout: float = Field(default=10.0, gt=0, description="Seconds that one has to answer.")


def _pins(context: Context) -> Verifier:
    config: PinsConfig = context.config
    return Pins(config.digests, required=config.required)


def _programs(context: Context) -> Verifier:
    config: ProgramsConfig = context.config
    return Programs(config.bin_dir, config.max_verifiers, config.per_verifier_timeout, context.log)


@hookimpl
def orlop_verifiers() -> Iterable[Provider[Verifier]]:
    """Offer both."""
    yield Provider("pins", open=_pins, config=PinsConfig)
    yield Provider("bindir", open=_programs, config=ProgramsConfig)

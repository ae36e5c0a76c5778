"""The layers of the image that a faulty registry serves."""

from __future__ import annotations

from tests.support.faulty import FaultyRegistry


def layer_path(faulty: FaultyRegistry, number: int = 0) -> str:
    return f"GET .*/blobs/{faulty.served.layers[number]}"


def blob(faulty: FaultyRegistry, number: int = 0) -> bytes:
    return faulty.served.blobs[faulty.served.layers[number]]

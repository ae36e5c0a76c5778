"""Comparing releases of the kernel."""

from __future__ import annotations

import re


def kernel_at_least(kernel: str, wanted: str) -> bool:
    """Whether a kernel's release ("6.1.0-13-amd64") is ``wanted`` ("4.8") or newer."""

    def numbers(text: str) -> tuple[int, int]:
        match = re.match(r"(\d+)\.(\d+)", text)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    return numbers(kernel) >= numbers(wanted)

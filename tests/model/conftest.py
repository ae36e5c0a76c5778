"""The random walk takes minutes: script/prove takes it, script/test only what it found."""

from __future__ import annotations

import os

collect_ignore = [] if os.environ.get("ORLOP_PROVE") else ["test_model.py"]

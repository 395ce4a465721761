"""Keeping libraries from importing OpenTelemetry for themselves, only because it is installed.

redis-py would import its metrics (3 MB and 70 ms of every process), and Litestar a part of it: for something
that is never switched on here.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_opentelemetry() -> Iterator[None]:
    """Run a block to which OpenTelemetry is not installed, unless it was imported before."""
    if "opentelemetry" in sys.modules:
        yield
        return
    # Python's own way to say that a module can't be imported.
    sys.modules["opentelemetry"] = None  # type: ignore[assignment]  # not in the stubs' type
    try:
        yield
    finally:
        del sys.modules["opentelemetry"]

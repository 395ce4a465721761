"""How many files this process may open: the usual soft limit of 1,024 is little for a thousand streams."""

from __future__ import annotations

import resource

import psutil

ENOUGH = 4_096


def raise_limit() -> None:
    """Raise the soft limit to what is enough, if it may be; processes started from here on inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def spare_files() -> int:
    """Return how many more files this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = ENOUGH if soft == resource.RLIM_INFINITY else soft
    return soft - psutil.Process().num_fds()

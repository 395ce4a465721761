"""Programs of Debian's packages that tests run: where they are, and what happens where they are missing."""

from __future__ import annotations

import os
import shutil
import warnings
from typing import NoReturn

import pytest


def find_program(name: str) -> str | None:
    """Return a program's path, also in a folder for the administrator's programs; None if it is missing."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def require_program(name: str, package: str, subject: str) -> str:
    """Return a program's path; skip the test, with a warning, where it is missing.

    Args:
        name: the program.
        package: Debian's package.
        subject: what is not tested without it.

    """
    path = find_program(name)
    if path is None:
        skip_loudly(f"no {name} here (Debian: {package})", subject)
    return path


def skip_loudly(reason: str, subject: str) -> NoReturn:
    """Skip the test, with a warning that says what is not tested."""
    warnings.warn(f"{reason}: {subject} NOT TESTED", stacklevel=3)
    pytest.skip(reason)

"""This machine: its Python and packages, disks, open files and clock."""

from __future__ import annotations

import importlib.metadata
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from oms.checks.findings import Finding, ok, warning, wrong

ROOT = Path(__file__).resolve().parent.parent.parent
LOCK = "requirements.lock"

LEAST_FREE_BYTES = 200_000_000
LEAST_FREE_SHARE = 0.05
LEAST_SHARED_MEMORY_BYTES = 32_000_000

FILES_BESIDE_CONNECTIONS = 100
"""Files that a process opens besides its callers' connections: libraries, sessions, logs."""

CLOCK_SECONDS = 1.0
"""How far clocks may differ: times of webhooks' signatures and leases are compared across machines."""

_LOCKED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)(\s*;)?", re.MULTILINE)


def check_versions(lock: Path = ROOT / LOCK) -> Iterator[Finding]:
    """Compare Python and the installed packages with what the project is tested with."""
    python = ".".join(map(str, sys.version_info[:3]))
    try:
        locked = lock.read_text(encoding="utf-8")
    except OSError as error:
        yield warning(
            "versions",
            f"{lock} can't be read ({error.strerror}), so the packages were not compared",
            f"Keep {LOCK} beside the code, as the image does.",
        )
        return
    differing = list(_differing_packages(locked))
    if differing:
        yield wrong(
            "versions",
            f"packages are not those of {LOCK}: {', '.join(differing)}",
            f"Install them: {Path(sys.executable).name} -m pip install --no-deps --require-hashes -r {LOCK}",
        )
    else:
        yield ok("versions", f"Python {python}, and the packages of {LOCK}")


def _differing_packages(locked: str) -> Iterator[str]:
    for name, version, marker in _LOCKED.findall(locked):
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if not marker:  # those with a marker may be for another system
                yield f"{name} is missing"
            continue
        if installed != version:
            yield f"{name} is {installed}, not {version}"


def check_disks(state_dir: Path | None) -> Iterator[Finding]:
    """Look for folders that are full or can't be written."""
    folders = {"the temporary folder": Path(os.environ.get("TMPDIR") or tempfile.gettempdir())}
    if state_dir is not None and state_dir.is_dir():
        folders["the folder of `make run`"] = state_dir
    for name, folder in folders.items():
        if reason := why_unwritable(folder):
            yield wrong("disk", f"{name} {folder} can't be written: {reason}", "Free it, or set TMPDIR.")
            continue
        yield check_space(name, folder, *shutil.disk_usage(folder))
    yield from _check_shared_memory(Path("/dev/shm"))  # noqa: S108 - the system's shared memory


def check_space(name: str, folder: Path, total: int, _used: int, free: int) -> Finding:
    """Judge the free space of a file system."""
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free in {name} {folder}"
    if free < min(LEAST_FREE_BYTES, LEAST_FREE_SHARE * total):
        return wrong("disk", text, "Free some: PostgreSQL and Redis refuse writes when they run out of it.")
    if free < LEAST_FREE_SHARE * total:
        return warning("disk", text, "Free some before it is full.")
    return ok("disk", text)


def why_unwritable(folder: Path) -> str:
    """Return why no file can be written in a folder; empty if one can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4_096))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _check_shared_memory(folder: Path) -> Iterator[Finding]:
    if sys.platform != "linux":
        return
    if reason := why_unwritable(folder):
        yield wrong(
            "disk",
            f"the shared memory {folder} can't be written: {reason}",
            f"The worker needs it: mount -t tmpfs tmpfs {folder}, or docker's --shm-size.",
        )
    elif (free := shutil.disk_usage(folder).free) < LEAST_SHARED_MEMORY_BYTES:
        yield wrong(
            "disk",
            f"{free / 1e6:.0f} MB are free in the shared memory {folder}",
            "Remove what fills it, or mount it with more: PostgreSQL and the worker need it.",
        )
    else:
        yield ok("disk", f"the shared memory {folder} can be written")


def check_open_files(connections: int) -> Finding:
    """Compare the limit of open files with the connections that one API process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + FILES_BESIDE_CONNECTIONS
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return ok("open files", f"a process may open {'any number of' if hard < 0 else f'{hard:,}'} files")
    return wrong(
        "open files",
        f"a process may open {hard:,} files, and OMS_CONNECTIONS={connections} needs {needed:,}",
        f"Raise the limit (ulimit -Hn {needed}, LimitNOFILE= of systemd), or set OMS_CONNECTIONS lower.",
    )


def check_clocks(ahead: Mapping[str, float]) -> Finding:
    """Judge clocks.

    Args:
        ahead: by how many seconds each server's clock is ahead of this machine's.

    """
    clocks = {"this machine": 0.0, **ahead}
    first, last = min(clocks, key=clocks.__getitem__), max(clocks, key=clocks.__getitem__)
    apart = clocks[last] - clocks[first]
    names = ", ".join(clocks)
    if apart <= CLOCK_SECONDS:
        return ok("clocks", f"the clocks of {names} differ by {apart:.2f} s at most")
    return wrong(
        "clocks",
        f"the clock of {last} is {apart:,.1f} s ahead of that of {first}",
        "Set them with NTP (timedatectl set-ntp true): slew PostgreSQL's, never set it back.",
    )

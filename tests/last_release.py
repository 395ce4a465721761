"""The last released version, unpacked from git's history, and its processes."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from tests.processes import NO_REDIS, ROOT, ServiceProcess, environment

GIT = shutil.which("git") or "git"
CHANGELOG = "CHANGELOG.md"
_RELEASE = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - ", re.MULTILINE)
_UNRELEASED = re.compile(r"^## \[Unreleased\]\n(.*?)^## ", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Release:
    """The code of a released version."""

    version: str
    code: Path
    """Its folder."""

    @property
    def migrations(self) -> set[str]:
        """The names of its migrations, as the database has them."""
        files = (self.code / "shared" / "database" / "migrations").glob("shared_*.py")
        return {
            name for file in files for name in re.findall(r'^ID = "(.+)"$', file.read_text(), re.MULTILINE)
        }


def unpack_last_release(folder: Path) -> Release:
    """Unpack the release before the working tree; skip the test, with a warning, where git lacks it."""
    version, commit = _find_last_release()
    archive = subprocess.run([GIT, "archive", commit], check=True, capture_output=True, cwd=ROOT).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    _compare_libraries(folder)
    return Release(version, folder)


def _find_last_release() -> tuple[str, str]:
    """Return the version and the newest commit whose changelog has it on top, and nothing unreleased."""
    changelog = (ROOT / CHANGELOG).read_text()
    released = _RELEASE.findall(changelog)
    version = released[0] if _has_unreleased(changelog) else released[1]
    commits = _git("log", "--full-history", "--format=%H", "--", CHANGELOG).split()
    for commit in commits:
        then = _git("show", f"{commit}:{CHANGELOG}")
        if _RELEASE.findall(then)[:1] == [version] and not _has_unreleased(then):
            return version, commit
    reason = f"release {version} is not in this clone's history (git fetch --unshallow)"
    warnings.warn(f"{reason}: the upgrade from it is NOT TESTED", stacklevel=1)
    pytest.skip(reason)


def _has_unreleased(changelog: str) -> bool:
    match = _UNRELEASED.search(changelog)
    return bool(match and match[1].strip())


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run([GIT, *arguments], check=True, capture_output=True, text=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout


def _compare_libraries(code: Path) -> None:
    """Warn where the release was locked to other versions of libraries than those that it runs with here."""
    locked = re.findall(
        r"^([\w.\[\],-]+)==([^ ;\\]+)", (code / "requirements.lock").read_text(), re.MULTILINE
    )
    for name, version in locked:
        try:
            installed = metadata.version(name.partition("[")[0])
        except metadata.PackageNotFoundError:  # for another platform, or removed since
            continue
        if installed != version:
            warnings.warn(f"the last release runs with {name} {installed}, not {version}", stacklevel=2)


class ReleasedProcess(ServiceProcess):
    """A process of a release; settings that it does not know are left out."""

    def __init__(
        self, release: Release, module: str, *, database: str, redis: str, port: int = 0, **settings: str
    ) -> None:
        self.code = release.code
        super().__init__(module, database=database, redis=redis, port=port, **settings)

    def environment(self, database: str, redis: str, **settings: str) -> dict[str, str]:
        """Return its environment."""
        return released_environment(self.code, environment(database, redis, **settings))


def released_environment(code: Path, variables: dict[str, str]) -> dict[str, str]:
    """Leave out the settings that the code in a folder refuses as unknown."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith("OMS_") or name.removeprefix("OMS_").lower() in _known_settings(code)
    }


@cache
def _known_settings(code: Path) -> frozenset[str]:
    names = subprocess.run(
        [sys.executable, "-c", "from shared.settings import Settings; print(*Settings.model_fields)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=code,
    )
    return frozenset(names.stdout.split())


def run_migrate_of(release: Release, database: str) -> subprocess.CompletedProcess[str]:
    """Run the release's migrator."""
    return subprocess.run(
        [sys.executable, "-m", "shared.database.migrate"],
        check=False,
        capture_output=True,
        text=True,
        cwd=release.code,
        env=released_environment(release.code, environment(database, NO_REDIS)),
        timeout=60,
    )

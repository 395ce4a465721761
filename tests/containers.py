"""What a container is to a process, without an engine: a root that is read-only, another user, no privileges.

``unshare`` makes a mount namespace, in which only this machine's programs, the image's files and the
service's volumes are seen. Started by an ordinary user, it also makes a user namespace: the user inside is
then that same one, called root, without privileges.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stack.child_processes import start_process, stop_processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

USER = 10001
"""That of the image."""

PYTHON = Path(sys.prefix).resolve() / "bin" / "python"
_PYTHON_FOLDERS = {str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)}
IS_ROOT = os.geteuid() == 0

_UNSHARE = ("unshare", "--mount", *(() if IS_ROOT else ("--user", "--map-root-user")))
_AS_USER = (f"--reuid={USER}", f"--regid={USER}", "--clear-groups") if IS_ROOT else ()
_CONFINED = ("setpriv", *_AS_USER, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")

_MAKE_ROOT = """
set -eu
root=$1; shift
mount --bind "$root" "$root"
while [ "$1" != -- ]; do
  case $1 in
    tmpfs) mount -t tmpfs -o mode=1777 tmpfs "$root$2" ;;
    # Where this project lies under /tmp, the new file system there has no folder for it yet.
    *) [ -e "$root$2" ] || mkdir -p "$root$2"
       mount --rbind "$3" "$root$2"
       [ "$1" = rw ] || mount -o remount,bind,ro "$root$2" ;;
  esac
  shift 3
done
shift
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


def reason_without_namespaces() -> str:
    """Return why this machine can't do it, in the words of the kernel; empty if it can."""
    for program in ("unshare", "nsenter", "setpriv", "chroot"):
        if shutil.which(program) is None:
            return f"there is no {program} here"
    done = subprocess.run(
        [*_UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/tmp"],  # noqa: S108 (in the namespace)
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stderr.strip() if done.returncode else ""


class Image:
    """The files of an image in a folder, and the processes that run on them.

    Args:
        folder: an empty folder.

    """

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._volumes = folder / "volumes"
        self._logs = folder / "logs"
        self.app = self._root / "app"
        self.app.mkdir(parents=True)
        self._volumes.mkdir()
        self._logs.mkdir()
        self._mounts = ["tmpfs", "/tmp", "", "tmpfs", "/dev/shm", ""]  # noqa: S108 (in the container)
        for device in ("null", "zero", "random", "urandom"):
            self._bind("rw", f"/dev/{device}", is_file=True)
        self._bind("rw", "/proc")
        for place in (
            "/usr",
            "/etc",
            *{str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix)},
        ):
            self._bind("ro", place)
        for place in ("/bin", "/lib", "/lib64", "/sbin"):
            if Path(place).is_symlink():
                (self._root / place[1:]).symlink_to(Path(place).readlink())
            elif Path(place).is_dir():
                self._bind("ro", place)
        for place in ("tmp", "dev/shm"):
            (self._root / place).mkdir(parents=True, exist_ok=True)
        for parent in (self._root, *self._root.rglob("*")):
            if parent.is_dir() and not parent.is_symlink():
                parent.chmod(0o755)

    def _bind(self, access: str, place: str, *, is_file: bool = False) -> None:
        target = self._root / place[1:]
        (target.parent if is_file else target).mkdir(parents=True, exist_ok=True)
        if is_file:
            target.touch()
        self._mounts += [access, place, place]

    @contextmanager
    def started(
        self, command: Sequence[str], environment: Mapping[str, str], volumes: Sequence[str] = ()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command of the image, ``python -m …``, until the block ends.

        Args:
            command: of the service.
            environment: of the container.
            volumes: those of the service, ``name:/folder`` or ``name:/folder:ro``. Each is a folder that
                stays when the process ends.

        """
        mounts = list(self._mounts)
        for volume in volumes:
            name, place, *access = volume.split(":")
            (self._root / place[1:]).mkdir(parents=True, exist_ok=True)
            (self._volumes / name).mkdir(exist_ok=True)
            if IS_ROOT:
                os.chown(self._volumes / name, USER, USER)
            mounts += [*(access or ["rw"]), place, str(self._volumes / name)]
        inside = [*_CONFINED, "env", "--chdir=/app", PYTHON, *command[1:]]
        with (self._logs / command[-1]).open("wb") as log:
            process = start_process(
                [*_UNSHARE, "sh", "-c", _MAKE_ROOT, "sh", str(self._root), *mounts, "--", *map(str, inside)],
                output=log,
                env=environment,
            )
        try:
            yield process
        finally:
            stop_processes(process, grace=5.0)

    def log(self, command: Sequence[str]) -> str:
        """Return what a command has printed."""
        return (self._logs / command[-1]).read_text(errors="replace")

    def execute(
        self, process: subprocess.Popen[bytes], command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run another command, ``python …``, in the container of a process, as a health check is."""
        enter = ("nsenter", f"--target={process.pid}", "--mount", "--root", *(() if IS_ROOT else ("--user",)))
        inside = (*_CONFINED, "env", "--chdir=/app", str(PYTHON), *command[1:])
        return subprocess.run(
            [*enter, *inside], check=False, capture_output=True, text=True, env=environment, timeout=60
        )

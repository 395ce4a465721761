"""Who the database server runs as, and the folder that belongs to that user.

PostgreSQL refuses to run as root. An ordinary user runs it as themselves; root runs it as an unprivileged
user that the system has already, and changes nobody's permissions: where that user can't reach the
checkout, the server's folder lies elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import secrets
import stat
from pathlib import Path

from stack.child_processes import StackError

_ROOT = 0
_UNPRIVILEGED = ("postgres", "nobody", "daemon")
_ROOTS_FOLDERS = Path("/var/lib/order-management")
"""Where root keeps the data of a checkout that lies where the unprivileged user can't go."""


def claim_folder(folder: Path) -> tuple[pwd.struct_passwd | None, Path]:
    """Make the server's folder. Return the user to run as (None: ourselves) and where the folder really is.

    For root, if the unprivileged user can't get there, ``folder`` becomes a link to a new one under /var/lib.
    An old one is taken up only by the link that names it: without the link its data count as deleted.

    Raises:
        StackError: the folder is somebody else's or can't be made, or there is nobody to run as.

    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != _ROOT:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise StackError(f"{folder} belongs to another user; choose a STATE_DIR of your own")
        return None, folder
    if folder.is_dir() and folder.stat().st_uid != _ROOT:
        owner = _user(folder.stat().st_uid)
    else:
        owner = _user(*_UNPRIVILEGED)
    elsewhere = folder.is_symlink() or not may_enter(owner, folder.parent)
    home = _folder_elsewhere(folder, owner) if elsewhere else folder
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, owner.pw_uid, owner.pw_gid)
    return owner, home


def _folder_elsewhere(folder: Path, owner: pwd.struct_passwd) -> Path:
    """Return the folder that the link names, and make the link if there is none."""
    advice = f"choose a STATE_DIR that {owner.pw_name} may enter: PostgreSQL doesn't run as root"
    try:
        _ROOTS_FOLDERS.mkdir(parents=True, exist_ok=True)
        _ROOTS_FOLDERS.chmod(0o755)  # whatever the umask is
    except OSError as error:
        raise StackError(f"{_ROOTS_FOLDERS} can't be made ({error.strerror}); {advice}") from None
    if not may_enter(owner, _ROOTS_FOLDERS):
        raise StackError(f"{owner.pw_name} may not enter {_ROOTS_FOLDERS} either; {advice}")
    place = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if not folder.is_symlink():
        if folder.exists():
            raise StackError(f"{owner.pw_name} may not enter {folder.parent} any more; {advice}")
        # Before the folder: a kill between the two leaves a link to make it by, and no folder without a link.
        folder.symlink_to(_ROOTS_FOLDERS / f"{place}-{secrets.token_hex(8)}")
    home = folder.readlink()
    if home.parent != _ROOTS_FOLDERS or home.name.partition("-")[0] != place:
        # Two copies of a checkout would run two servers on one data folder.
        raise StackError(
            f"{folder} is the link of another checkout; remove it to start with an empty database"
        )
    return home


def _user(*candidates: int | str) -> pwd.struct_passwd:
    for candidate in candidates:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(candidate) if isinstance(candidate, int) else pwd.getpwnam(candidate)
    raise StackError(
        "PostgreSQL doesn't run as root, and there is no user "
        f"{' or '.join(map(str, candidates))} to run it as; start as an ordinary user"
    )


def may_enter(user: pwd.struct_passwd, folder: Path) -> bool:
    """Tell whether a user may go to a folder, by the permission bits of everything above it."""
    for part in (folder.resolve(), *folder.resolve().parents):
        status = part.stat()
        if status.st_uid == user.pw_uid:
            bit = stat.S_IXUSR
        elif status.st_gid == user.pw_gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not status.st_mode & bit:
            return False
    return True

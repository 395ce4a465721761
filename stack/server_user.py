"""The user that PostgreSQL runs as, and the folder that this user owns.

PostgreSQL refuses to run as root. Started by an ordinary user, it runs as that user. Started by root, it runs
as an existing unprivileged user, and no other permissions change: if that user can't enter the checkout, the
server's folder is under /var/lib.
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
_ROOT_OWNED_FOLDERS = Path("/var/lib/order-management")
"""The folder for the data of checkouts that the unprivileged user can't enter."""


def claim_folder(folder: Path) -> tuple[pwd.struct_passwd | None, Path]:
    """Create the server's folder; return the user to run as (None: the current one) and the real folder.

    As root, if the unprivileged user can't enter it, ``folder`` becomes a link to a new folder under
    /var/lib. An existing folder there is used only if the link names it: removing the link means deleting
    the data.

    Raises:
        StackError: the folder belongs to another user or can't be created, or there is no user to run as.

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
    elsewhere = folder.is_symlink() or not can_enter(owner, folder.parent)
    home = _folder_elsewhere(folder, owner) if elsewhere else folder
    home.mkdir(mode=0o700, exist_ok=True)
    os.chown(home, owner.pw_uid, owner.pw_gid)
    return owner, home


def _folder_elsewhere(folder: Path, owner: pwd.struct_passwd) -> Path:
    """Return the folder that the link names; create the link if it is missing."""
    advice = f"choose a STATE_DIR that {owner.pw_name} can enter: PostgreSQL doesn't run as root"
    try:
        _ROOT_OWNED_FOLDERS.mkdir(parents=True, exist_ok=True)
        _ROOT_OWNED_FOLDERS.chmod(0o755)  # whatever the umask is
    except OSError as error:
        raise StackError(f"{_ROOT_OWNED_FOLDERS} can't be created ({error.strerror}); {advice}") from None
    if not can_enter(owner, _ROOT_OWNED_FOLDERS):
        raise StackError(f"{owner.pw_name} cannot enter {_ROOT_OWNED_FOLDERS} either; {advice}")
    checkout = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if not folder.is_symlink():
        if folder.exists():
            raise StackError(f"{owner.pw_name} can no longer enter {folder.parent}; {advice}")
        # The link comes first: if the run is killed before the folder is created, the next run creates it.
        # There is never a folder without a link.
        folder.symlink_to(_ROOT_OWNED_FOLDERS / f"{checkout}-{secrets.token_hex(8)}")
    home = folder.readlink()
    if home.parent != _ROOT_OWNED_FOLDERS or home.name.partition("-")[0] != checkout:
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


def can_enter(user: pwd.struct_passwd, folder: Path) -> bool:
    """Return whether a user can enter a folder, by the permission bits of it and of all its parents."""
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

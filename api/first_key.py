"""Makes an API key for a deployment that has none: ``python -m api.first_key``, once before the API starts.

The key is kept for the operator, its digest for the API (``OMS_API_KEYS_FILE``), in two folders: the API's
container has only the digest. With OMS_API_KEYS, or where OMS_ACCESS is open, there is no generated key.
"""

from __future__ import annotations

import secrets
import sys
from hashlib import sha256
from pathlib import Path

from shared.command_output import print_line
from shared.settings import settings

KEY_FILE = Path("/var/lib/api-key/key")
DIGEST_FILE = Path("/var/lib/api-keys/keys")


def make_first_key(key_file: Path, digest_file: Path) -> bool:
    """Write both files; return whether there is a generated key. An existing key is kept.

    Raises:
        OSError: a file can't be written.

    """
    if settings().api_keys or settings().access == "open":
        _write(digest_file, "")
        return False
    try:
        key = key_file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        key = ""
    if not key:
        key = secrets.token_urlsafe(32)
        _write(key_file, f"{key}\n")
    _write(digest_file, f"generated:write:{sha256(key.encode()).hexdigest()}\n")
    return True


def _write(file: Path, text: str) -> None:
    # Whole or not at all: a start may be interrupted.
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text, encoding="ascii")
    new.replace(file)


def main() -> int:
    """Run from the command line; 0 when the files are written."""
    try:
        generated = make_first_key(KEY_FILE, DIGEST_FILE)
    except (OSError, UnicodeDecodeError) as error:
        print_line(f"first_key: {error}", level="error")
        return 1
    print_line(
        f"the API asks for the key in {KEY_FILE}"
        if generated
        else "no API key is generated, as OMS_API_KEYS or OMS_ACCESS=open is set"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

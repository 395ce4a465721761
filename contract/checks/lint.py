"""Lint the contract: HTTP with spectral, redocly and our own rules, events with AsyncAPI's parser.

    python -m contract.checks.lint

All need node. They are installed from ``contract/checks/package-lock.json`` if they are missing or have other
versions; after that they use no network. The exit status is 0 if the contract is clean, 1 if it is not, 2 if
the linters can't be run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
LOCK = FOLDER / "package-lock.json"
INSTALLED = FOLDER / "node_modules" / ".installed-from-lock"
OPENAPI = "contract/openapi.yaml"
LINTERS = (
    (
        "node_modules/@stoplight/spectral-cli/dist/index.js",
        "lint",
        "--ruleset",
        ".spectral.yaml",
        "--fail-severity",
        "warn",
        OPENAPI,
    ),
    (
        "node_modules/@redocly/cli/bin/cli.js",
        "lint",
        "--config",
        "redocly.yaml",
        "--format",
        "codeframe",
        OPENAPI,
    ),
    ("asyncapi-lint.cjs", "contract/asyncapi.yaml"),
)
QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_UPDATE_NOTIFIER": "1"}


class NoLinterError(Exception):
    """The linters can't be run here; the text says what is missing."""


def tool(name: str) -> str:
    """Return the path of one of node's programs.

    Raises:
        NoLinterError: it is not installed.

    """
    path = shutil.which(name)
    if path is None:
        raise NoLinterError(
            f"linting the contract needs node 20 or newer with npm, and `{name}` is not installed. "
            "Install node and try again; the service and its tests do not need it."
        )
    return path


def install() -> None:
    """Install the linters in the versions of the lock file, unless they are already installed.

    Raises:
        NoLinterError: npm is missing or fails.

    """
    lock = LOCK.read_bytes()
    if INSTALLED.exists() and INSTALLED.read_bytes() == lock:
        return
    sys.stdout.write("Installing the contract's linters …\n")
    sys.stdout.flush()
    done = subprocess.run([tool("npm"), "ci", "--silent"], cwd=FOLDER, check=False)
    if done.returncode:
        raise NoLinterError(
            f"npm could not install the linters from {LOCK.relative_to(ROOT)} (exit status {done.returncode})"
        )
    INSTALLED.write_bytes(lock)


def main() -> int:
    """Run the command; return the exit status."""
    try:
        node = tool("node")
        install()
    except NoLinterError as error:
        sys.stderr.write(f"lint: {error}\n")
        return 2
    clean = True
    for script, *arguments in LINTERS:
        command = [node, "--no-deprecation", str(FOLDER / script), *arguments]
        clean &= subprocess.run(command, cwd=ROOT, env=os.environ | QUIET, check=False).returncode == 0
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())

"""A copy of the OSV database's advisories for PyPI, and a server on this machine that answers from it.

pip-audit asks a service over HTTP and has no offline mode, so this is the part of https://api.osv.dev/v1/query
that it uses. A copy is OSV's export, ``PyPI/all.zip`` of its bucket, or a folder of such JSON files.
"""

from __future__ import annotations

import json
import threading
import zipfile
from collections import defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

Advisory = dict[str, Any]


def _texts(copy: Path) -> Iterator[bytes]:
    if copy.is_dir():
        for file in sorted(copy.rglob("*.json")):
            yield file.read_bytes()
        return
    with zipfile.ZipFile(copy) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                yield archive.read(name)


def read_advisories(copy: Path) -> Mapping[str, Sequence[Advisory]]:
    """Read a copy: the advisories of each package, by its normalized name.

    Raises:
        ValueError: it has no advisory for any package of PyPI.
        OSError, zipfile.BadZipFile: it can't be read.

    """
    advisories: dict[str, list[Advisory]] = defaultdict(list)
    for text in _texts(copy):
        advisory: Advisory = json.loads(text)
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            if package.get("ecosystem") == "PyPI":
                # pip-audit compares names as they are.
                package["name"] = canonicalize_name(package["name"])
                if advisory not in advisories[package["name"]]:
                    advisories[package["name"]].append(advisory)
    if not advisories:
        raise ValueError(f"{copy} has no advisory for any package of PyPI")
    return advisories


def is_affected(advisory: Advisory, name: str, version: str) -> bool:
    """Return whether an advisory is about a version: it is listed, or in one of the ranges (OSV 1.x)."""
    for affected in advisory["affected"]:
        if affected.get("package", {}).get("name") != name:
            continue
        if version in affected.get("versions", ()):
            return True
        ranges = (one["events"] for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM")
        if any(_is_in_range(events, Version(version)) for events in ranges):
            return True
    return False


def _is_in_range(events: Sequence[Mapping[str, str]], version: Version) -> bool:
    inside = False
    for kind, at in sorted(
        ((kind, at) for event in events for kind, at in event.items()), key=lambda event: _version(event[1])
    ):
        if kind == "introduced" and version >= _version(at):
            inside = True
        elif (kind == "fixed" and version >= _version(at)) or (
            kind == "last_affected" and version > _version(at)
        ):
            inside = False
    return inside


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:  # not one that a package on PyPI can have today; "0" is before all
        return Version("0")


@contextmanager
def serving_advisories(copy: Path) -> Iterator[str]:
    """Serve a copy on this machine, and give the URL for pip-audit."""
    advisories = read_advisories(copy)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["content-length"])))
            name = canonicalize_name(query["package"]["name"])
            known = [one for one in advisories.get(name, ()) if is_affected(one, name, query["version"])]
            body = json.dumps({"vulns": known} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing for each request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

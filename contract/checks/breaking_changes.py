"""Check whether the contract in the working tree breaks callers of the contract at a git revision.

    python -m contract.checks.breaking_changes [--base REVISION]

Each breaking change is printed with a JSON Pointer. The exit status is 1 when there is one, unless the major
number of ``info.version`` was raised; 2 when the contracts can't be compared.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from contract.checks.document import (
    CONTRACT,
    ContractError,
    Place,
    load,
    media_types,
    operations,
    parameters,
    parse,
)
from contract.checks.schema_changes import Change, Direction, SchemaComparison
from shared.control_characters import escape_control_characters

PROBLEM = "application/problem+json"
USUAL_BASES = ("main", "origin/main", "HEAD")
"""Revisions to try, for a local main branch, a clone on another branch, and a detached checkout."""


class NoRevisionError(Exception):
    """The revision does not exist, or git is not installed."""


def breaking_changes(old: Place, new: Place) -> list[Change]:
    """List the changes that break callers of the old contract, each once."""
    return list(dict.fromkeys(_of_contracts(old, new)))


SECTIONS: tuple[tuple[str, Direction, Direction], ...] = (
    ("paths", "request", "response"),
    ("webhooks", "event", "request"),
)
"""The sections with operations. In ``paths`` callers send bodies and receive responses; in ``webhooks`` they
receive bodies, each an event, and send responses."""


def _of_contracts(old: Place, new: Place) -> Iterator[Change]:
    for section, body, response in SECTIONS:
        now = {(_template(path), method): (path, each) for path, method, each in operations(new, section)}
        for path, method, before in operations(old, section):
            if (_template(path), method) not in now:
                yield Change(before.pointer, f"the operation {method.upper()} {path} was removed")
                continue
            new_path, after = now[_template(path), method]
            yield from _of_operations(before, after)
            yield from _of_parameters(
                parameters(old, path, before, section),
                parameters(new, new_path, after, section),
                path,
                new_path,
            )
            yield from _of_bodies(before.child("requestBody"), after.child("requestBody"), after, body)
            yield from _of_responses(before, after, response)


def _template(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def _of_operations(old: Place, new: Place) -> Iterator[Change]:
    if old.get("operationId") not in (None, new.get("operationId")):
        yield Change(
            new.pointer, f"the operationId changed from {old.get('operationId')} to {new.get('operationId')}"
        )
    if _allows_anonymous(old) and not _allows_anonymous(new):
        yield Change(new.pointer, "access without credentials is no longer possible")


def _allows_anonymous(operation: Place) -> bool:
    requirements = operation.get("security", operation.root.get("security", []))
    return not requirements or {} in requirements


def _of_parameters(
    old: dict[tuple[str, str], Place], new: dict[tuple[str, str], Place], old_path: str, new_path: str
) -> Iterator[Change]:
    # Path parameters are matched by their position in the path: callers never send their names.
    renamed = dict(
        zip(re.findall(r"\{([^}]*)\}", old_path), re.findall(r"\{([^}]*)\}", new_path), strict=True)
    )
    remaining = dict(new)
    for (where, name), before in old.items():
        after = remaining.pop((where, renamed.get(name, name) if where == "path" else name), None)
        if after is None:
            yield Change(before.pointer, f"the {where} parameter {name} was removed")
            continue
        if after.get("required") and not before.get("required"):
            yield Change(after.pointer, f"the {where} parameter {name} is newly required")
        yield from SchemaComparison().changes(
            before.child("schema"), _single_value_schema(before, after), "request"
        )
    for (where, name), added in remaining.items():
        if added.get("required"):
            yield Change(added.pointer, f"the {where} parameter {name} is new and required")


def _single_value_schema(before: Place, after: Place) -> Place | None:
    """Return the new schema of a parameter; of one of its values, if the parameter can now be repeated."""
    old, now = before.child("schema"), after.child("schema")
    if (
        old
        and now
        and old.get("type") != "array"
        and now.get("type") == "array"
        and after.get("explode", True)
    ):
        return now.child("items")
    return now


def _of_bodies(
    old: Place | None, new: Place | None, operation: Place, direction: Direction
) -> Iterator[Change]:
    if old is None:
        if new is not None and new.get("required"):
            yield Change(new.pointer, "a body is newly required")
        return
    if new is None:
        yield Change(old.pointer, f"{operation.pointer} no longer takes a body")
        return
    if new.get("required") and not old.get("required"):
        yield Change(new.pointer, "a body is newly required")
    yield from _of_content(old, new, direction)


def _of_content(old: Place, new: Place, direction: Direction) -> Iterator[Change]:
    now = media_types(new)
    for media_type, before in media_types(old).items():
        if media_type not in now:
            yield Change(before.pointer, f"the media type {media_type} was removed")
        else:
            after = now[media_type]
            if media_type == PROBLEM and direction == "response":
                yield from SchemaComparison().changes_of_problems(
                    before.child("schema"), after.child("schema")
                )
                continue
            yield from SchemaComparison().changes(before.child("schema"), after.child("schema"), direction)


def _of_responses(old: Place, new: Place, direction: Direction) -> Iterator[Change]:
    now = new.members("responses")
    for status, before in old.members("responses").items():
        if status not in now:
            yield Change(before.pointer, f"the response {status} of {new.pointer} was removed")
            continue
        after = now[status]
        yield from _of_content(before, after, direction)
        headers = {name.lower(): header for name, header in after.members("headers").items()}
        for name, header in before.members("headers").items():
            if name.lower() not in headers:
                yield Change(header.pointer, f"the header {name} of {after.pointer} was removed")
                continue
            present = headers[name.lower()]
            if header.get("required") and not present.get("required"):
                yield Change(present.pointer, f"the header {name} is no longer always present")
            yield from SchemaComparison().changes(header.child("schema"), present.child("schema"), direction)


def major(contract: Place) -> int:
    """Return the major number of a contract's version."""
    return int(str(contract.root["info"]["version"]).partition(".")[0])


def _git(folder: Path, *arguments: str) -> str | None:
    """Run git in a folder; return its output, or None if it failed.

    Raises:
        NoRevisionError: git is not installed.

    """
    git = shutil.which("git")
    if git is None:
        raise NoRevisionError("git is needed to read the earlier contract, and is not installed")
    done = subprocess.run([git, *arguments], cwd=folder, capture_output=True, check=False)
    return done.stdout.decode() if done.returncode == 0 else None


def contract_at(base: str | None, path: Path) -> tuple[str, str | None]:
    """Return the contract's text at a revision, by default the last commit of the main branch.

    Returns:
        The name of the revision, and the text; None if the revision has no contract yet.

    Raises:
        NoRevisionError: the revision does not exist.

    """
    for revision in (base,) if base else USUAL_BASES:
        if _git(path.parent, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}") is not None:
            return revision, _git(path.parent, "show", f"{revision}:./{path.name}")
    if base is None and _git(path.parent, "rev-parse", "--git-dir") is not None:
        return "no commit", None
    raise NoRevisionError(f"git has no revision {base}" if base else "this is not a git repository")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m contract.checks.breaking_changes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--base", help="the git revision to compare with (default: the last commit of main)")
    parser.add_argument(
        "--contract", type=Path, default=CONTRACT, help="the contract (default: this project's)"
    )
    options = parser.parse_args(arguments)
    try:
        revision, text = contract_at(options.base, options.contract)
        if text is None:
            sys.stdout.write(f"{revision} has no contract yet, so nothing can break.\n")
            return 0
        old, new = parse(text), load(options.contract)
    except (NoRevisionError, ContractError, OSError) as error:
        sys.stderr.write(f"breaking_changes: {error}\n")
        return 2
    changes = breaking_changes(old, new)
    for change in changes:
        sys.stdout.write(f"breaking  {escape_control_characters(str(change))}\n")
    if not changes:
        sys.stdout.write(f"No breaking changes since {revision}.\n")
    elif major(new) > major(old):
        sys.stdout.write(
            f"{len(changes)} breaking change(s) since {revision}; the major version was raised for them.\n"
        )
        return 0
    else:
        sys.stdout.write(
            f"{len(changes)} breaking change(s) since {revision}. Revert them, or raise the major number of "
            f"info.version ({new.root['info']['version']}).\n"
        )
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())

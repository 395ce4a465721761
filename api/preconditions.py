"""Entity tags (RFC 9110, section 8.8.3) and the preconditions that name them (section 13.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.problem_types import VERSION_REQUIRED
from api.problems import Fault, ProblemError, malformed
from shared.settings import settings

if TYPE_CHECKING:
    from api.requests import AnyRequest

# Possessive (++, *+): a list has one reading, and one that is none is refused in linear time. With ordinary
# repetition a header of seventy spaces and commas would have occupied the process for hours.
_SEPARATOR = r"(?:[ \t]*+,)++[ \t]*+"
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"(?:{_SEPARATOR})?+[ \t]*+{_TAG}(?:{_SEPARATOR}{_TAG})*+(?:{_SEPARATOR})?+[ \t]*+")
_ONE = re.compile(_TAG)


@dataclass(frozen=True)
class EntityTags:
    """The tags of a precondition; None stands for ``*``, whatever there is."""

    tags: frozenset[str] | None

    def strongly_match(self, version: int) -> bool:
        """Compare as If-Match does: a weak tag never matches."""
        return self.tags is None or etag(version) in self.tags

    def weakly_match(self, version: int) -> bool:
        """Compare as If-None-Match does: weak or strong makes no difference."""
        return self.tags is None or etag(version) in {tag.removeprefix("W/") for tag in self.tags}


def etag(version: int) -> str:
    """Give the tag of an order's version. It is strong: the same version is the same bytes."""
    return f'"{version}"'


def _read(request: AnyRequest, name: str) -> EntityTags | None:
    given = request.headers.getall(name, [])
    if not given:
        return None
    value = ", ".join(given)
    if value.strip() == "*":
        return EntityTags(None)
    if not _LIST.fullmatch(value):
        raise malformed(Fault('must be * or entity tags such as "1", separated by commas', header=name))
    return EntityTags(frozenset(_ONE.findall(value)))


def read_if_match(request: AnyRequest) -> EntityTags | None:
    """Read If-Match.

    Raises:
        ProblemError: 400, it is no list of entity tags; 428, it is missing and OMS_REQUIRE_IF_MATCH is set.

    """
    found = _read(request, "If-Match")
    if found is None and settings().require_if_match:
        raise ProblemError(
            VERSION_REQUIRED, "Send If-Match with the ETag that the order had when you read it."
        )
    return found


def read_if_none_match(request: AnyRequest) -> EntityTags | None:
    """Read If-None-Match.

    Raises:
        ProblemError: 400, it is no list of entity tags.

    """
    return _read(request, "If-None-Match")

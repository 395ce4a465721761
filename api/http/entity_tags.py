"""Entity tags (RFC 9110, section 8.8.3) and the preconditions that name them (section 13.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.http.problem_types import VERSION_REQUIRED
from api.http.problems import Fault, ProblemError, malformed
from shared.settings import settings

if TYPE_CHECKING:
    from api.http.request import AnyRequest

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
        return self.weakly_name(etag(version))

    def weakly_name(self, tag: str) -> bool:
        """Tell whether a tag is among these, whichever of them are weak."""
        return self.tags is None or tag in {given.removeprefix("W/") for given in self.tags}


@dataclass(frozen=True)
class Preconditions:
    """What must be so for an order to be written (section 13.2.2)."""

    if_match: EntityTags | None = None
    if_none_match: EntityTags | None = None

    def hold_at(self, version: int) -> bool:
        """Tell whether an order that is at a version may be written."""
        return (self.if_match is None or self.if_match.strongly_match(version)) and (
            self.if_none_match is None or not self.if_none_match.weakly_match(version)
        )


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


def read_preconditions(request: AnyRequest) -> Preconditions:
    """Read what a write asks for: If-Match and If-None-Match.

    Raises:
        ProblemError: 400, one is no list of entity tags; 428, If-Match is missing and OMS_REQUIRE_IF_MATCH is
            set.

    """
    found = Preconditions(_read(request, "If-Match"), _read(request, "If-None-Match"))
    if found.if_match is None and settings().require_if_match:
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

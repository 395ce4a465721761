"""Entity tags (RFC 9110, section 8.8.3) and the preconditions that name them (section 13.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from api.http.problem_types import VERSION_REQUIRED
from api.http.problems import Fault, ProblemError, malformed
from api.http.request import header_values
from shared.settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from api.http.request import AnyRequest

# Possessive quantifiers (++, *+) refuse an invalid list in linear time. With backtracking, a header of
# seventy spaces and commas would occupy the process for hours.
_SEPARATOR = r"(?:[ \t]*+,)++[ \t]*+"
_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST = re.compile(rf"(?:{_SEPARATOR})?+[ \t]*+{_TAG}(?:{_SEPARATOR}{_TAG})*+(?:{_SEPARATOR})?+[ \t]*+")
_ONE = re.compile(_TAG)

LONGEST_KEPT_LIST = 100
"""Characters of a list that is read once for all requests with the same; a longer one is read each time."""


@dataclass(frozen=True)
class EntityTags:
    """The tags of a precondition; None is ``*``, which matches any."""

    tags: frozenset[str] | None

    def strongly_match(self, tag: str) -> bool:
        """Compare a strong tag as If-Match does: a weak tag never matches."""
        return self.tags is None or tag in self.tags

    def weak_form_of(self, tag: str) -> str | None:
        """Return the weak form of a strong tag, if it is among them."""
        weak = f"W/{tag}"
        return weak if self.tags is not None and weak in self.tags else None

    def weakly_match(self, tag: str) -> bool:
        """Compare a strong tag as If-None-Match does: weak or strong makes no difference."""
        return self.tags is None or tag in self.tags or f"W/{tag}" in self.tags


@dataclass(frozen=True)
class Preconditions:
    """The conditions under which an order may be written (section 13.2.2)."""

    if_match: EntityTags | None = None
    if_none_match: EntityTags | None = None

    def hold_at(self, tag: str) -> bool:
        """Return whether what has a tag now may be written."""
        return (self.if_match is None or self.if_match.strongly_match(tag)) and (
            self.if_none_match is None or not self.if_none_match.weakly_match(tag)
        )


def etag(version: int, rendering: int) -> str:
    """Return the tag of a version, in the format in which it is rendered.

    It is strong: a version always has the same bytes in one format. The contract promises a number. Versions
    have at most ten digits, so no two tags are equal.
    """
    return f'"{version}"' if rendering == 1 else f'"{rendering}{version:010}"'


def version_of(tag: str) -> int:
    """Return the version in a tag of ``etag``, weak or strong; 0 if it is no such tag."""
    digits = tag.removeprefix("W/").strip('"')
    return int(digits[-10:]) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else 0


def _read(request: AnyRequest, name: str) -> EntityTags | None:
    values = header_values(request.scope, name.lower().encode())
    if not values:
        return None
    value = ", ".join(values)
    tags = _tags_of_short_list(value) if len(value) <= LONGEST_KEPT_LIST else _tags_of(value)
    if tags is None:
        raise malformed(Fault('must be * or entity tags such as "1", separated by commas', header=name))
    return tags


def _tags_of(value: str) -> EntityTags | None:
    if value.strip() == "*":
        return EntityTags(None)
    return EntityTags(frozenset(_ONE.findall(value))) if _LIST.fullmatch(value) else None


_tags_of_short_list = lru_cache(256)(_tags_of)


def read_preconditions(request: AnyRequest) -> Preconditions:
    """Read If-Match and If-None-Match of a write.

    Raises:
        ProblemError: 400, one is not a list of entity tags; 428, If-Match is missing and OMS_REQUIRE_IF_MATCH
            is set.

    """
    preconditions = Preconditions(_read(request, "If-Match"), _read(request, "If-None-Match"))
    if preconditions.if_match is None and settings().require_if_match:
        raise ProblemError(
            VERSION_REQUIRED, "Send If-Match with the ETag that the order had when you read it."
        )
    return preconditions


def require_versions(versions: Iterable[int | None]) -> None:
    """Check that a batch states the version of each thing that it changes, if a single write has to.

    Raises:
        ProblemError: 428, one is missing and OMS_REQUIRE_IF_MATCH is set.

    """
    if settings().require_if_match and None in versions:
        raise ProblemError(VERSION_REQUIRED, "Send each order's version, as it was when you read it.")


def read_if_none_match(request: AnyRequest) -> EntityTags | None:
    """Read If-None-Match.

    Raises:
        ProblemError: 400, it is not a list of entity tags.

    """
    return _read(request, "If-None-Match")

"""The bodies of requests about calendars."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import PlainValidator

from api.http.bodies import Body, Patch, ReadOnly
from api.http.durations import duration_in_words, read_duration
from api.http.texts import visible_text
from api.orders.fields import read_calendar
from api.orders.spacing import CLEARANCE, LONGEST_SPACING, SHORTEST_SPACING

LONGEST_TITLE = 100
NO_TITLE = ""

_read_visible_title = visible_text(LONGEST_TITLE)


def read_title(value: object) -> str:
    """Read a calendar's title; it may be empty."""
    return NO_TITLE if value == NO_TITLE else _read_visible_title(value)


def read_spacing(value: object) -> timedelta:
    """Read a calendar's spacing: an ISO 8601 duration, to the second."""
    spacing = read_duration(value)
    if not SHORTEST_SPACING <= spacing <= LONGEST_SPACING:
        shortest, longest = duration_in_words(SHORTEST_SPACING), duration_in_words(LONGEST_SPACING)
        raise ValueError(f"must be from {shortest} to {longest}")
    return spacing


_Name = Annotated[str | None, PlainValidator(read_calendar)]
_Title = PlainValidator(read_title)
_Spacing = PlainValidator(read_spacing)


class CalendarReplacement(Body):
    """The body of a PUT: the whole calendar. What is left out gets its default."""

    name: _Name = None
    """If given, it must be the name in the path."""
    title: Annotated[str, _Title] = NO_TITLE
    spacing: Annotated[timedelta, _Spacing] = CLEARANCE
    created_at: ReadOnly = None


class CalendarPatch(Patch):
    """The body of a PATCH. A title or a spacing that is null gets its default."""

    removable = frozenset({"title", "spacing"})

    name: _Name = None
    """If given, it must be the name in the path."""
    title: Annotated[str | None, _Title] = None
    spacing: Annotated[timedelta | None, _Spacing] = None
    created_at: ReadOnly = None

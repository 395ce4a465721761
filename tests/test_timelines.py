"""The timeline's drawer: places of orders, days of a zone, texts that callers chose, and its size."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from xml.etree import ElementTree as ET

from api.pictures.svg import LARGEST_PICTURE_BYTES
from api.pictures.time_axis import TimeAxis
from api.pictures.timeline import draw_timeline
from api.pictures.timeline_rows import Timeline, TimelineOrder, TimelineRow

MONDAY = datetime(2026, 11, 30, tzinfo=UTC)
SPACING = timedelta(hours=3)
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert(1)</script>\"'&\x00\x0b\x1f\x7f\ud800\ufffe]]>\n--> 😀"


def order(at: datetime, calendar: str = "crew-7", *, text: str | None = None) -> TimelineOrder:
    """Return an order."""
    name = text or "Inspection"
    return TimelineOrder("223", 1, at, calendar, Decimal("100.00"), text, "booked", [name])


def timeline(*rows: TimelineRow, days: int = 1, zone: str = "UTC") -> Timeline:
    """Return a timeline from Monday on."""
    return Timeline(MONDAY, MONDAY + timedelta(days=days), zone, rows, 4, MONDAY + timedelta(hours=1))


def parsed(drawn: bytes) -> ET.Element:
    """Parse a picture."""
    return ET.fromstring(drawn)  # noqa: S314 (what was just drawn)


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    """Return the elements of a class."""
    return [one for one in root.iter() if name in (one.get("class") or "").split()]


def test_orders_and_free_intervals_are_drawn_where_their_datetimes_are() -> None:
    """As a script computes a time from a place: by the attributes of the root."""
    at = MONDAY + timedelta(hours=11, minutes=11, seconds=11)
    free = (MONDAY, at - SPACING)
    root = parsed(draw_timeline(timeline(TimelineRow("crew-7", SPACING, [order(at)], [free]))))
    left, width = float(root.attrib["data-left"]), float(root.attrib["data-width"])
    begin, end = (datetime.fromisoformat(root.attrib[name]) for name in ("data-from", "data-to"))

    def time_at(x: float) -> datetime:
        return begin + (end - begin) * ((x - left) / width)

    (drawn,), (shade,) = of_class(root, "order"), of_class(root, "free")
    tolerance = (end - begin) * (0.11 / width)
    assert abs(time_at(float(drawn.find(f"{SVG}rect").attrib["x"])) - at) <= tolerance  # type: ignore[union-attr]  # it has one
    x = float(shade.attrib["x"])
    assert abs(time_at(x) - free[0]) <= tolerance
    assert abs(time_at(x + float(shade.attrib["width"])) - free[1]) <= 2 * tolerance
    assert (drawn.attrib["data-datetime"], drawn.attrib["data-fee"]) == ("2026-11-30T11:11:11.000Z", "100.00")
    assert drawn.findtext(f"{SVG}title") == (
        "223 · Mon 30 Nov 2026, 11:11:11 UTC · Inspection · 100.00 · booked"
    )
    assert root.attrib["data-position"] == "4"


def test_the_days_on_which_clocks_change_have_23_and_25_hours() -> None:
    """They are as wide as they are long, and the hour that is repeated is labelled twice."""
    for date, hours in ((29, 23), (25, 25)):
        month = 3 if hours == 23 else 10
        begin = datetime(2026, month, date, tzinfo=UTC) - timedelta(hours=1 if hours == 23 else 2)
        axis = TimeAxis(begin, begin + timedelta(hours=hours), "Europe/Berlin", 0.0, 2_000.0)
        (day,) = axis.days()
        assert (day.date.day, day.end - day.begin) == (date, timedelta(hours=hours))
        assert len(list(axis.hours())) == hours + 1
        assert [at.hour for at in axis.hours()].count(2) == (0 if hours == 23 else 2)


def test_a_day_that_a_country_skipped_is_not_drawn() -> None:
    """Samoa had no 30 December 2011."""
    begin = datetime(2011, 12, 29, 10, tzinfo=UTC)
    axis = TimeAxis(begin, begin + timedelta(days=2), "Pacific/Apia", 0.0, 1_000.0)
    assert [day.date.day for day in axis.days()] == [29, 31]


def test_what_callers_wrote_is_text_in_a_picture_whatever_characters_it_has() -> None:
    """What XML can't have is replaced; there is no style, no script and no element that they made."""
    root = parsed(draw_timeline(timeline(TimelineRow("crew-7", SPACING, [order(MONDAY, text=HOSTILE)]))))
    names = {one.tag.removeprefix(SVG) for one in root.iter()}
    assert names <= {"svg", "g", "rect", "path", "text", "title", "circle"}
    assert not [one for one in root.iter() if "style" in one.attrib]
    (drawn,) = of_class(root, "order")
    shown = HOSTILE.translate(dict.fromkeys((0, 0x0B, 0x1F, 0x7F, 0xD800, 0xFFFE), "\ufffd"))
    assert drawn.attrib["data-reference"] == shown
    assert shown in (drawn.findtext(f"{SVG}title") or "")


def test_a_picture_keeps_its_size_and_says_what_it_leaves_out() -> None:
    """Too many orders become numbers by day; too many calendars are counted."""
    for calendars, days in ((50, 7), (20, 32), (1_000, 32)):
        rows = [
            TimelineRow(
                f"crew-{n}",
                SPACING,
                [order(MONDAY + timedelta(hours=7 * k)) for k in range(20)],
                [(MONDAY + timedelta(days=k), MONDAY + timedelta(days=k, hours=9)) for k in range(days)],
            )
            for n in range(calendars)
        ]
        picture = draw_timeline(timeline(*rows, days=days))
        assert len(picture) <= LARGEST_PICTURE_BYTES
        root = parsed(picture)
        drawn = len(of_class(root, "row"))
        notes = " ".join(one.text or "" for one in of_class(root, "note"))
        assert root.attrib["data-detail"] == "days"
        if drawn < calendars:
            assert f"{drawn:,} of {calendars:,} calendars" in notes
            assert f"{(calendars - drawn) * 20:,} orders" in notes
        else:
            assert notes == ""
            assert calendars <= 50

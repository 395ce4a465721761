"""Timelines through the API: what is drawn is what the same request answers with in JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from tests.builders import text_of

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database

MONDAY = datetime(2030, 6, 3, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"
IMG = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
"""What Chromium accepts for an ``<img>``."""


def at(hours: float) -> datetime:
    """Return a time on Monday, or later."""
    return MONDAY + timedelta(hours=hours)


def get(api: Api, path: str, *, accept: str = IMG, **query: Any) -> httpx.Response:
    """Ask for something of Monday."""
    window = {"from": text_of(MONDAY), "to": text_of(at(24))}
    return api.client.get(path, params=window | query, headers={"Accept": accept})


def root_of(answer: httpx.Response) -> ET.Element:
    """Parse a picture."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml"), answer.text
    assert answer.headers["vary"] == "Accept"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return ET.fromstring(answer.content)  # noqa: S314 (what this service drew)


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    """Return the elements of a class."""
    return [one for one in root.iter() if name in (one.get("class") or "").split()]


def drawn_orders(root: ET.Element) -> list[tuple[str | None, ...]]:
    """Return what a picture says of each order."""
    names = ("data-order", "data-datetime", "data-calendar", "data-version")
    return sorted(
        (*(one.get(name) for name in names), one.attrib["class"].split()[1])
        for one in of_class(root, "order")
    )


def listed_orders(api: Api, **query: Any) -> list[tuple[str | None, ...]]:
    """Return the same of each order in JSON."""
    answer = get(api, "/orders", accept="*/*", **query)
    assert answer.headers["vary"] == "Accept"
    return sorted(
        (one["id"], one["datetime"], one["calendar"], str(one["version"]), one["status"])
        for one in answer.json()["items"]
    )


def placed(api: Api) -> None:
    """Place orders on two calendars, one of them cancelled."""
    for hours, calendar in ((2.5, "crew-7"), (10, "crew-7"), (9, "crew-8"), (30, "crew-8")):
        api.placed_order(at=at(hours), calendar=calendar)
    cancelled = api.placed_order(at=at(18), calendar="crew-7")
    assert api.client.post(f"/orders/{cancelled['id']}/cancel", json={}).status_code == 200


def test_an_img_of_free_times_shows_the_same_intervals_and_orders_as_json(api: Api) -> None:
    """Of one calendar, and of several in the order in which they are asked for."""
    placed(api)
    root = root_of(get(api, "/availability", calendar=["crew-8", "crew-7", "crew-9"]))
    listed = get(api, "/availability", accept="*/*", calendar=["crew-8", "crew-7", "crew-9"])
    assert (listed.headers["content-type"], listed.headers["vary"]) == ("application/json", "Accept")
    drawn = [
        (one.get("data-calendar"), one.get("data-from"), one.get("data-to")) for one in of_class(root, "free")
    ]
    items = listed.json()["items"]
    assert drawn == [(one["calendar"], free["from"], free["to"]) for one in items for free in one["items"]]
    assert [one.get("data-calendar") for one in of_class(root, "row")] == ["crew-8", "crew-7", "crew-9"]
    assert drawn_orders(root) == listed_orders(api)
    one = root_of(get(api, "/calendars/crew-7/availability", accept="*/*", format="svg"))
    assert drawn_orders(one) == listed_orders(api, calendar="crew-7")


def test_a_picture_of_orders_has_those_that_match_and_says_up_to_which_position(
    api: Api, database: Database
) -> None:
    """A row for each calendar that is asked for, or that has orders; filters hold as for the list."""
    placed(api)
    assert root_of(get(api, "/orders")).attrib["data-position"] == "0"
    database.rows("SELECT assign_positions(100)")
    root = root_of(get(api, "/orders"))
    assert root.attrib["data-position"] == "6"
    assert drawn_orders(root) == listed_orders(api)
    assert [one.get("data-calendar") for one in of_class(root, "row")] == ["crew-7", "crew-8"]
    booked = root_of(get(api, "/orders", calendar=["crew-9", "crew-7"], status="booked"))
    assert drawn_orders(booked) == listed_orders(api, calendar="crew-7", status="booked")
    assert [one.get("data-calendar") for one in of_class(booked, "row")] == ["crew-9", "crew-7"]

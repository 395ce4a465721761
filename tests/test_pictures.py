"""Timelines through the API: what is drawn is what the same request answers with in JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from tests.builders import text_of
from tests.contract_schemas import CONTRACT

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api, Database

MONDAY = datetime(2030, 6, 3, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"
IMG = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
"""What Chromium accepts for an ``<img>``."""
PAGE = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"
"""What it accepts for a page."""

NOT_DRAWN = "has no meaning with image/svg+xml"
NOT_JSON = "has no meaning with application/json"
NO_ZONE = "time_zone: is not the name of a time zone"


def at(hours: float) -> datetime:
    """Return a time on Monday, or later."""
    return MONDAY + timedelta(hours=hours)


def get(api: Api, path: str, *, accept: str = IMG, **query: Any) -> httpx.Response:
    """Ask for something of Monday."""
    window = {"from": text_of(MONDAY), "to": text_of(at(24))}
    params = {name: value for name, value in (window | query).items() if value is not None}
    return api.client.get(path, params=params, headers={"Accept": accept})


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


@pytest.mark.parametrize(
    ("path", "accept", "query", "fault"),
    [
        ("/orders", IMG, {"limit": "5"}, f"limit: {NOT_DRAWN}"),
        ("/orders", "*/*", {"format": "svg", "sort": "-id"}, f"sort: {NOT_DRAWN}"),
        ("/orders", IMG, {"count": "exact"}, f"count: {NOT_DRAWN}"),
        ("/orders", IMG, {"cursor": "start"}, f"cursor: {NOT_DRAWN}"),
        ("/orders", "*/*", {"time_zone": "UTC"}, f"time_zone: {NOT_JSON}"),
        (
            "/orders",
            IMG,
            {"format": "json", "time_zone": "UTC"},
            f"time_zone: {NOT_JSON}",
        ),
        ("/orders", IMG, {"from": None}, "from: is required"),
        ("/orders", IMG, {"to": None}, "to: is required"),
        ("/orders", IMG, {"to": text_of(MONDAY)}, "to: must be at least an hour"),
        ("/orders", IMG, {"to": text_of(at(800))}, "to: must be at most 32 days after from"),
        ("/orders", IMG, {"from": text_of(at(48))}, "from: must not be later than to"),
        ("/availability?calendar=a", IMG, {"next": "2"}, f"next: {NOT_DRAWN}"),
        (
            "/availability?calendar=a",
            IMG,
            {"to": text_of(at(0.5))},
            "to: must be at least an hour after from",
        ),
        ("/availability", IMG, {}, "calendar: is required"),
        ("/calendars/a/availability", IMG, {"cursor": "start"}, f"cursor: {NOT_DRAWN}"),
        *(
            (
                "/calendars/a/availability",
                IMG,
                {"time_zone": name},
                "time_zone: is not the name of a time zone",
            )
            for name in ("", "rome", "../UTC", "/etc/localtime", "Europe/Rome\x00", "<script>", "posixrules")
        ),
    ],
)
def test_what_has_no_meaning_with_a_picture_or_with_json_is_refused(
    api: Api, path: str, accept: str, query: dict[str, str | None], fault: str
) -> None:
    """Each answer names the parameter, and is JSON."""
    path, _, more = path.partition("?")
    answer = get(api, path, accept=accept, **dict([more.split("=")] if more else []), **query)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["detail"].startswith(fault)


def test_accept_and_format_decide_together(api: Api) -> None:
    """As for exports: a format that Accept excludes is refused. In the address bar, one sees JSON."""
    for accept, form, expected in (
        ("*/*", None, "application/json"),
        (
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8",
            None,
            "application/json",
        ),
        ("image/*", None, "image/svg+xml"),
        (IMG, "json", "application/json"),
        ("*/*", "svg", "image/svg+xml"),
        ("application/json", "svg", "application/problem+json"),
        ("image/png", None, "application/problem+json"),
    ):
        for path in ("/orders", "/calendars/a/availability"):
            answer = get(api, path, accept=accept, **({"format": form} if form else {}))
            assert answer.headers["content-type"] == expected, (accept, form)
            assert answer.status_code == (406 if "problem" in expected else 200)
    head = api.client.head(f"/orders?format=svg&from={text_of(MONDAY)}&to={text_of(at(9))}")
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "image/svg+xml", b"")


def test_texts_of_callers_are_text_in_a_picture_and_times_are_in_its_zone(api: Api) -> None:
    """Markup in a reference or in a service's name stays text, wherever it is shown."""
    hostile = "<script>alert(1)</script>\"'&]]>--> 😀"
    service = api.client.post("/services", json={"name": hostile}).json()["id"]
    api.placed_order(at=at(10), calendar="crew-7", services=(int(service),), reference=hostile)
    root = root_of(get(api, "/orders", time_zone="Asia/Kathmandu"))
    assert {one.tag for one in root.iter()} <= {
        SVG + name for name in ("svg", "g", "rect", "path", "text", "title", "circle")
    }
    (order,) = of_class(root, "order")
    assert order.attrib["data-reference"] == hostile
    assert f"15:45 +0545 · {hostile} · 100.00 · {hostile} · booked" in (order.findtext(f"{SVG}title") or "")
    assert root.attrib["data-time-zone"] == "Asia/Kathmandu"


def test_a_picture_of_many_orders_is_small_and_of_too_many_refused(api: Api, database: Database) -> None:
    """1,000 orders on 50 calendars; and 5,000 on one, of which none is left out of the counts."""
    database.rows(
        "INSERT INTO calendar (name, spacing_seconds) SELECT 'crew-' || n, 60 FROM generate_series(1, 51) n"
    )
    store = """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id, import_id)
        SELECT $1::timestamptz + n / 51 * interval '5 minutes', 1, '{123}', '{Inspection}', c.id, 1
        FROM generate_series(0, $2::int - 1) AS n
        JOIN calendar AS c ON c.name = 'crew-' || (n % $3::int + $4::int)
    """
    database.rows(store, MONDAY, 1_000, 50, 1)
    picture = get(api, "/orders")
    assert len(picture.content) <= 100_000
    root = root_of(picture)
    drawn = of_class(root, "order")
    assert len(drawn) == 1_000 or root.attrib["data-detail"] == "days"
    assert "1,000 orders on 50 calendars" in (root.get("aria-label") or "")
    database.rows(store, MONDAY, 5_000, 1, 51)
    one = get(api, "/availability", calendar="crew-51")
    assert "5,000 orders on 1 calendar" in (root_of(one).get("aria-label") or "")
    refused = get(api, "/orders")
    too_many = "must be closer to from: the window has more than 5,000 orders"
    assert refused.json()["errors"][0]["detail"].startswith(too_many)


def test_the_contracts_example_has_the_elements_and_attributes_of_a_picture(api: Api) -> None:
    """Classes and ``data-`` attributes are promised; how they look is not."""

    def marks(root: ET.Element) -> set[str]:
        return {
            f"{(one.get('class') or '').partition(' ')[0]} {name}"
            for one in root.iter()
            for name in one.attrib
            if name.startswith("data-")
        }

    example = ET.fromstring(CONTRACT.target("#/components/examples/TimelineOfADay/value").value)  # noqa: S314 (our own)
    api.placed_order(at=at(11), calendar="default")
    assert marks(example) == marks(root_of(get(api, "/calendars/default/availability")))

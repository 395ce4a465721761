"""The console's schedule: what a dispatcher does there, with the pointer and with the keyboard alone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import expect

from tests.browser import LARGEST_PAGE_BYTES, accessibility_faults, sideways_scroll, transferred_bytes
from tests.builders import text_of
from tests.drivers import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.browser import Browser
    from tests.browser_fixtures import Console

NOON = datetime(2030, 6, 5, 12, tzinfo=ZoneInfo("Europe/Rome"))
"""A Wednesday, in the zone of the visitor."""

DAY = "/console/schedule?view=day&date=2030-06-05"
REFUSED = "the server responded with a status of (400|409|412|422)"


def order_on(console: Console, calendar: str, at: datetime = NOON, **more: Any) -> dict[str, Any]:
    """Place an order."""
    return console.api.placed_order(at=at, calendar=calendar, **more)


def current(console: Console, order: dict[str, Any]) -> dict[str, Any]:
    """Read an order again."""
    read: dict[str, Any] = console.api.client.get(f"/orders/{order['id']}").json()
    return read


def drawn(page: Page, order: dict[str, Any]) -> Locator:
    """Return an order of the timeline."""
    return page.locator(f"g.order[data-order='{order['id']}']")


def place(page: Page, calendar: str, at: datetime) -> tuple[float, float]:
    """Return where a moment of a calendar is on the screen, as the picture's attributes say."""
    x, y = page.evaluate(
        """([calendar, at]) => {
            const svg = document.querySelector("svg.timeline");
            const row = svg.querySelector(`g.row[data-calendar="${calendar}"]`).getBoundingClientRect();
            const { from, to, left, width } = svg.dataset;
            const share = (Date.parse(at) - Date.parse(from)) / (Date.parse(to) - Date.parse(from));
            const x = Number(left) + Number(width) * share;
            return [new DOMPoint(x, 0).matrixTransform(svg.getScreenCTM()).x, row.y + row.height / 2];
        }""",
        [calendar, text_of(at)],
    )
    return x, y


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag from a place to another."""
    page.mouse.move(start[0] + 4, start[1])
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(end[0] + 4, end[1], steps=3)
    page.mouse.up()


def test_an_order_is_dragged_to_another_time_and_calendar_and_back_by_undo(
    console: Console, page: Page, browser: Browser
) -> None:
    """It lands on a quarter of an hour; the notice undoes it."""
    order = order_on(console, "crew-7")
    order_on(console, "crew-8", NOON - timedelta(hours=9))
    page.goto(DAY)
    target = NOON + timedelta(hours=4, minutes=45)
    drag(page, place(page, "crew-7", NOON), place(page, "crew-8", target + timedelta(minutes=4)))
    expect(page.get_by_text("Moved to 5 Jun 2030, 16:45 on crew-8")).to_be_visible()
    moved = current(console, order)
    assert (moved["datetime"], moved["calendar"]) == ("2030-06-05T14:45:00.000Z", "crew-8")
    expect(page.locator("g.row[data-calendar='crew-8'] g.order")).to_have_count(2)
    browser.screenshot(page, "moved")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("Moved to 5 Jun 2030, 12:00 on crew-7")).to_be_visible()
    back = current(console, order)
    assert (back["datetime"], back["calendar"], back["version"]) == (order["datetime"], "crew-7", 3)


def test_a_refused_drag_offers_the_nearest_datetimes_and_one_is_taken_in_the_timeline(
    console: Console, page: Page, browser: Browser
) -> None:
    """In the words of the API, beside the timeline, where both places are marked."""
    browser.expect(REFUSED)
    order = order_on(console, "crew-7", NOON - timedelta(hours=6))
    order_on(console, "crew-7", NOON)
    page.goto(DAY)
    drag(
        page,
        place(page, "crew-7", NOON - timedelta(hours=6)),
        place(page, "crew-7", NOON + timedelta(hours=1)),
    )
    refusal = page.get_by_role("dialog", name="Not moved")
    expect(refusal.get_by_role("button")).to_have_text(
        [re.compile("09:00"), re.compile("15:00"), re.compile("Leave")]
    )
    assert accessibility_faults(page) == []
    browser.screenshot(page, "refused")
    page.locator(".place[data-at='2030-06-05T13:00:00.000Z']").click()
    expect(page.get_by_text("Moved to 5 Jun 2030, 15:00.")).to_be_visible()
    expect(refusal).to_be_hidden()
    assert current(console, order)["datetime"] == "2030-06-05T13:00:00.000Z"


def test_an_order_is_created_in_a_gap_once_and_a_refusal_offers_the_nearest(
    console: Console, page: Page, browser: Browser
) -> None:
    """The click gives datetime and calendar; faults are in the dialog."""
    browser.expect(REFUSED)
    order_on(console, "crew-7", reference="PO-1")
    page.goto(DAY)
    page.mouse.click(*place(page, "crew-7", NOON + timedelta(hours=6)))
    dialog = page.get_by_role("dialog", name="New order")
    expect(dialog.get_by_label("Time")).to_have_value("2030-06-05T18:00")
    expect(dialog.get_by_label("Calendar")).to_have_value("crew-7")
    assert accessibility_faults(page) == []
    dialog.get_by_label("Time").fill("2030-06-05T13:00")
    dialog.get_by_label("Fee").fill("250,50")
    dialog.get_by_label("Reference").fill("PO-2")
    create = dialog.get_by_role("button", name="Create order")
    create.click()
    expect(dialog.get_by_role("alert")).to_have_text("Choose at least one service.")
    dialog.get_by_label("Inspection").check()
    create.click()
    browser.screenshot(page, "refused")
    dialog.get_by_role("button", name="15:00").click()
    expect(dialog).to_be_hidden()
    (_, created) = console.api.every_order()
    assert (created["datetime"], created["totalfee"]) == ("2030-06-05T13:00:00.000Z", 250.5)
    assert (created["calendar"], created["reference"]) == ("crew-7", "PO-2")
    expect(drawn(page, created)).to_be_visible()
    page.get_by_role("button", name="New order").click()
    dialog.get_by_label("Reference").fill("PO-2")
    dialog.get_by_label("Time").fill("2030-06-06T13:00")
    dialog.get_by_label("Fee").fill("1")
    dialog.get_by_label("Testing").check()
    create.click()
    expect(dialog.get_by_role("alert")).to_contain_text("PO-2")


def test_an_order_is_cancelled_with_a_reason_and_reinstated(console: Console, page: Page) -> None:
    """The reason is in its history; its place is free meanwhile."""
    order = order_on(console, "crew-7")
    page.goto(DAY)
    drawn(page, order).click()
    dialog = page.get_by_role("dialog", name=f"Order {order['id']}")
    dialog.get_by_label("Reason").fill("Die Kundin möchte nicht mehr")
    dialog.get_by_role("button", name="Cancel order").click()
    expect(page.locator("g.order.cancelled")).to_have_count(1)

    def reasons() -> list[str | None]:
        changes = console.api.client.get(f"/orders/{order['id']}/changes").json()["items"]
        return [change.get("reason") for change in changes]

    wait_until(lambda: "Die Kundin möchte nicht mehr" in reasons(), "the reason is in the history")
    page.get_by_role("button", name=f"Change order {order['id']}").click()
    assert accessibility_faults(page) == []
    dialog.get_by_role("button", name="Reinstate").click()
    expect(page.locator("g.order.booked")).to_have_count(1)
    assert current(console, order)["status"] == "booked"


def test_the_keyboard_alone_moves_an_order_by_arrows_and_by_its_dialog(console: Console, page: Page) -> None:
    """A pending move is said; Escape gives it up and Enter sends it; the focus stays on the order."""
    order = order_on(console, "crew-7")
    order_on(console, "crew-8", NOON - timedelta(hours=6))
    page.goto(DAY)
    said = page.locator("#said")
    drawn(page, order).focus()
    page.keyboard.press("ArrowRight")
    expect(said).to_contain_text("12:15, crew-7, free")
    page.keyboard.press("Escape")
    expect(said).to_have_text("Not moved.")
    for key in ("ArrowDown", "Shift+ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    expect(said).to_contain_text("12:45, crew-8")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Moved to 5 Jun 2030, 12:45 on crew-8")).to_be_visible()
    expect(drawn(page, order)).to_have_attribute("data-version", "2")
    expect(drawn(page, order)).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=f"Order {order['id']}")
    expect(dialog.get_by_label("New time")).to_be_focused()
    dialog.get_by_label("New time").fill("2030-06-05T20:30")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    assert current(console, order)["datetime"] == "2030-06-05T18:30:00.000Z"
    expect(drawn(page, order)).to_have_attribute("data-version", "3")
    expect(drawn(page, order)).to_be_focused()


@pytest.mark.parametrize(("date", "hours"), [("2030-03-31", 23), ("2030-10-27", 25)])
def test_the_days_on_which_clocks_change_are_whole_and_name_moments_once(
    console: Console, browser: Browser, date: str, hours: int
) -> None:
    """A time that comes twice asks which one; one that never comes is refused by its field."""
    order = order_on(console, "crew-7", datetime.fromisoformat(f"{date}T12:00:00+00:00"))
    page = browser.open(console.url)
    page.goto(f"/console/schedule?view=day&date={date}")
    window = page.locator("svg.timeline").evaluate(
        "svg => Date.parse(svg.dataset.to) - Date.parse(svg.dataset.from)"
    )
    assert round(window / 3_600_000) == hours
    drawn(page, order).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("New time").fill(f"{date}T02:30")
    if hours == 23:
        dialog.get_by_role("button", name="Move").click()
        assert (
            dialog.get_by_label("New time")
            .evaluate("field => field.validationMessage")
            .startswith("Clocks are put")
        )
        return
    dialog.get_by_label("Clocks are put back").select_option(label="the second, UTC+01:00")
    dialog.get_by_role("button", name="Move").click()
    expect(dialog).to_be_hidden()
    assert current(console, order)["datetime"] == "2030-10-27T01:30:00.000Z"


def test_a_reader_sees_orders_and_no_buttons(guarded_console: Console, browser: Browser) -> None:
    """Nothing is dragged either; an order leads to its page. A dispatcher's key shows both."""
    headers = {"Authorization": f"Bearer {guarded_console.key('admin')}"}
    body = {"datetime": text_of(NOON), "totalfee": 1, "services": [{"id": "123"}]}
    order = guarded_console.api.client.post("/orders", json=body, headers=headers).json()
    for name, writes in (("reader", False), ("dispatcher", True)):
        page = browser.open(guarded_console.url)
        page.goto("/console")
        page.get_by_label("API key").fill(guarded_console.key(name))
        page.get_by_role("button", name="Sign in").click()
        page.goto(DAY)
        expect(drawn(page, order)).to_be_visible()
        for button in (
            page.get_by_role("button", name="New order"),
            page.get_by_role("button", name="Change order"),
        ):
            expect(button).to_have_count(1 if writes else 0)
        assert page.locator("dialog").count() == (3 if writes else 0)
        if not writes:
            drag(page, place(page, "default", NOON), place(page, "default", NOON + timedelta(hours=4)))
            assert page.locator(".ghost").count() == 0
            expect(drawn(page, order)).to_have_attribute("role", "link")


def test_what_somebody_else_changes_appears_and_waits_for_an_open_dialog(
    console: Console, page: Page, browser: Browser
) -> None:
    """A write at an old version is told so, and nothing is lost."""
    browser.expect(REFUSED)
    order = order_on(console, "crew-7")
    page.goto(DAY)
    expect(page.locator("#live")).to_have_text("Live")
    other = order_on(console, "crew-7", NOON + timedelta(hours=5))
    expect(drawn(page, other)).to_be_visible()
    expect(page.locator("#orders tbody tr")).to_have_count(2)
    drawn(page, order).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("typed")
    console.api.client.patch(f"/orders/{order['id']}", json={"totalfee": 7})
    page.wait_for_timeout(600)
    assert dialog.get_by_label("Reason").input_value() == "typed"
    dialog.get_by_label("New time").fill("2030-06-05T09:00")
    dialog.get_by_role("button", name="Move").click()
    expect(page.get_by_text(f"Somebody changed order {order['id']} meanwhile")).to_be_visible()
    expect(drawn(page, order)).to_have_attribute("data-version", "2")
    assert current(console, order)["datetime"] == order["datetime"]


def test_what_callers_wrote_stays_text_in_timeline_table_and_dialogs(console: Console, page: Page) -> None:
    """Names of services, titles of calendars, references."""
    hostile = "\"><img src=x onerror=alert(1)><script>alert(2)</script>&amp;'{{7*7}}"
    service = console.api.client.post("/services", json={"name": hostile}).json()["id"]
    console.api.client.put("/calendars/crew-7", json={"title": hostile})
    order = order_on(console, "crew-7", services=(service,), reference=hostile[:64])
    page.on("dialog", lambda _: pytest.fail("a script of a caller ran"))
    page.goto(DAY)
    expect(page.locator("#orders tbody tr")).to_contain_text([hostile])
    page.locator("#picker summary").click()
    expect(page.locator("#picker fieldset")).to_contain_text(hostile)
    page.locator("#picker summary").click()
    drawn(page, order).click()
    expect(page.get_by_role("dialog")).to_contain_text(hostile)
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="New order").click()
    expect(page.get_by_role("dialog").locator("[data-services]")).to_contain_text(hostile)
    assert page.locator("img").count() == 0


def test_without_javascript_it_is_read_and_an_empty_system_says_what_to_do(
    console: Console, browser: Browser
) -> None:
    """Periods are links, orders are rows; the curl has this host."""
    page = browser.open(console.url, javascript=False, zone="UTC")
    page.goto("/console/schedule")
    expect(page.get_by_role("region", name="Command")).to_contain_text(f"curl -X POST {console.url}/orders")
    order = order_on(console, "crew-7", NOON.astimezone(UTC))
    page.goto("/console/schedule?view=month&date=2030-05-31")
    page.get_by_role("link", name="The month after").click()
    row = page.locator("#orders tbody tr")
    expect(row).to_contain_text(["2030-06-05 10:00"])
    expect(row.get_by_role("link", name=order["id"])).to_be_visible()
    assert page.locator("button:visible").all_text_contents() == ["Go"]
    browser.expect(REFUSED)
    page.goto("/console/schedule?view=year")
    expect(page.get_by_role("heading")).to_have_text("The request can't be read")
    expect(page.get_by_role("alert")).to_have_text("view is day, week or month, not year")


def test_it_fits_a_phone_in_the_dark_and_a_finger_moves_an_order(console: Console, browser: Browser) -> None:
    """Sideways, only the timeline and the table scroll."""
    order = order_on(console, "crew-7", NOON - timedelta(hours=9))
    page = browser.open(console.url, phone=True, dark=True)
    page.goto(DAY)
    assert sideways_scroll(page) == 0
    assert accessibility_faults(page) == []
    session = page.context.new_cdp_session(page)
    start = place(page, "crew-7", NOON - timedelta(hours=9))
    for kind, moved in (("touchStart", 0), ("touchMove", 20), ("touchMove", 60), ("touchEnd", None)):
        points = [] if moved is None else [{"x": start[0] + 5 + moved, "y": start[1]}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(page.get_by_text("Moved to")).to_be_visible()
    assert current(console, order)["datetime"] > order["datetime"]
    browser.screenshot(page, "phone")


def test_a_full_week_of_many_calendars_is_small_enough(console: Console, page: Page) -> None:
    """With all that it loads, whatever is drawn: each order, or each day's number of them."""
    for number in range(12):
        batch = [
            {
                "datetime": text_of(NOON + timedelta(hours=4 * hour)),
                "totalfee": 100,
                "calendar": f"crew-{number}",
            }
            | {"services": [{"id": "123"}], "reference": f"PO-{number}-{hour}"}
            for hour in range(24)
        ]
        assert console.api.client.post("/orders/batch", json={"orders": batch}).status_code == 201
    # The first page of a visitor is loaded twice, as it finds out their zone.
    page.goto(DAY)
    expect(page.locator("#live")).to_have_text("Live")
    sizes = transferred_bytes(page, "/console/schedule?date=2030-06-05")
    assert sum(sizes.values()) < LARGEST_PAGE_BYTES, "\n".join(
        f"{size} {url[-60:]}" for url, size in sizes.items()
    )


def test_a_click_is_not_lost_to_a_change_that_arrives_while_the_button_is_pressed(
    console: Console, page: Page
) -> None:
    """What is pressed stays until it is released; then the change is shown."""
    order, other = order_on(console, "crew-7"), order_on(console, "crew-8")
    page.goto(DAY)
    button = page.get_by_role("button", name=f"Change order {order['id']}")
    button.hover()
    page.mouse.down()
    console.api.client.post(f"/orders/{other['id']}/cancel")
    page.wait_for_timeout(600)
    page.mouse.up()
    expect(page.get_by_role("dialog", name=f"Order {order['id']}")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("g.order.cancelled")).to_have_count(1)

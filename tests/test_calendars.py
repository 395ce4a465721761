"""/calendars/{calendar}: a title, and how far apart its orders are at least; a PUT or an order makes it."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from api.http.durations import duration_text, read_duration
from tests.builders import MILLISECOND, NOON, later, order_body, text_of
from tests.drivers import at_once, faulty_places
from tests.import_steps import import_rows

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from tests.drivers import Api, Database

SHOWN = {"name", "title", "spacing", "created_at"}


def put(api: Api, calendar: str = "default", **body: Any) -> httpx.Response:
    """Try to replace a calendar."""
    return api.client.put(f"/calendars/{calendar}", json=body)


def patch(api: Api, calendar: str = "default", **body: Any) -> httpx.Response:
    """Try to change parts of a calendar."""
    return api.client.patch(f"/calendars/{calendar}", json=body)


def delete(api: Api, calendar: str = "default") -> httpx.Response:
    """Try to delete a calendar."""
    return api.client.delete(f"/calendars/{calendar}")


def spaced(api: Api, spacing: str, calendar: str = "default") -> None:
    """Give a calendar a spacing, which must be accepted."""
    answer = put(api, calendar, spacing=spacing)
    assert answer.status_code in (200, 201), answer.text


def cancelled(database: Database, order: dict[str, Any]) -> None:
    """Cancel an order with plain SQL."""
    database.rows(
        "UPDATE orders SET status = 'cancelled', version = version + 1 WHERE id = $1", int(order["id"])
    )


def problem(answer: httpx.Response, slug: str) -> dict[str, Any]:
    """Return the problem of a write that was refused with 409."""
    assert (answer.status_code, answer.json()["type"]) == (409, f"/problems/{slug}"), answer.text
    described: dict[str, Any] = answer.json()
    return described


# --- reading, making, changing -----------------------------------------------------------------------


def test_a_calendar_that_its_first_order_made_has_no_title_and_a_spacing_of_three_hours(api: Api) -> None:
    """Before that, there is none."""
    assert api.client.get("/calendars/default").status_code == 404
    api.placed_order()
    calendar = api.client.get("/calendars/default").json()
    assert calendar.keys() == SHOWN
    assert calendar | {"name": "default", "title": "", "spacing": "PT3H"} == calendar
    assert api.every_item("/calendars") == [calendar]


def test_a_put_makes_a_calendar_and_another_one_replaces_it(api: Api) -> None:
    """201, then 200; what the second one leaves out gets its default."""
    made = put(api, "hall-2", title="Halle 2 · Prüfstände", spacing="PT45M")
    assert made.status_code == 201
    assert (
        made.json() | {"name": "hall-2", "title": "Halle 2 · Prüfstände", "spacing": "PT45M"} == made.json()
    )
    assert api.client.get("/calendars/hall-2").json() == made.json()
    again = put(api, "hall-2", title="Halle 2 · Prüfstände", spacing="PT45M")
    assert (again.status_code, again.json()) == (200, made.json())
    titled = put(api, "hall-2", title="Hall two")
    assert (titled.status_code, titled.json()) == (
        200,
        made.json() | {"title": "Hall two", "spacing": "PT3H"},
    )
    assert put(api, "hall-2").json() == made.json() | {"title": "", "spacing": "PT3H"}
    assert api.every_item("/calendars") == [made.json() | {"title": "", "spacing": "PT3H"}]


def test_a_patch_changes_what_it_names(api: Api) -> None:
    """It makes no calendar. Null removes a value: the default takes its place."""
    assert patch(api, title="x").status_code == 404
    assert api.every_item("/calendars") == []
    made = put(api, title="Crew", spacing="P1D").json()
    assert patch(api, title="Crew 1").json() == made | {"title": "Crew 1"}
    assert patch(api, spacing="PT90M").json() == made | {"title": "Crew 1", "spacing": "PT1H30M"}
    assert patch(api, title=None).json() == made | {"title": "", "spacing": "PT1H30M"}
    assert patch(api, spacing=None, title="x y").json() == made | {"title": "x y", "spacing": "PT3H"}
    assert faulty_places(patch(api)) == ["#"]
    merged = api.client.patch(
        "/calendars/default",
        content=b'{"title": "y"}',
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert merged.json()["title"] == "y"


def test_a_calendar_can_be_sent_back_as_it_was_read(api: Api) -> None:
    """Its name must then be the one in the path."""
    calendar = put(api, "crew-7", title="x", spacing="PT1H").json()
    for method in ("PUT", "PATCH"):
        assert api.client.request(method, "/calendars/crew-7", json=calendar).json() == calendar
        other = api.client.request(method, "/calendars/crew-7", json=calendar | {"name": "Crew-7"})
        assert faulty_places(other) == ["#/name"]


@pytest.mark.parametrize(
    "spacing", ["PT1M", "PT61S", "PT59M59S", "P1DT12H", "P6DT23H59M59S", "P7D", "PT168H"]
)
def test_a_spacing_may_be_from_a_minute_to_seven_days(api: Api, spacing: str) -> None:
    """To the second; it is shown in one form."""
    shown = put(api, spacing=spacing).json()["spacing"]
    assert shown == duration_text(read_duration(spacing))
    there = api.placed_order()
    at = NOON + read_duration(spacing)
    assert api.place_order(at=at - MILLISECOND).json()["conflicts"][0]["id"] == there["id"]
    api.placed_order(at=at)


SPACINGS: tuple[Any, ...] = ("PT59S", "PT0S", "P7DT1S", "P8D", "P1M", "PT1.5H", "3h", "", 10800, True, [], {})
TITLES: tuple[Any, ...] = ("x" * 101, " ", " x", "x ", "a\tb", "a\u200bb", 5, [], True)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(("spacing", value) for value in (*SPACINGS, "PT999999H", "P999999W")),
        *(("title", value) for value in TITLES),
        *(("name", value) for value in ("other", "a b", 5)),
        *(("id", 5), ("spacing_seconds", 60), ("deleted_at", None)),
    ],
    ids=ascii,
)
def test_a_value_that_a_calendar_cannot_have_is_named(api: Api, place: str, value: Any) -> None:
    """On PUT and PATCH, and nothing is made."""
    for send in (put, patch):
        if value is not None or send is patch:
            assert faulty_places(send(api, **{place: value})) == [f"#/{place}"]
    assert api.every_item("/calendars") == []


@pytest.mark.parametrize("title", ["", "x", "Prüfstand Süd", "検査", "x" * 100, "🔬" * 100, "a/b <c> & 'd'"])
def test_a_title_may_be_any_visible_text_up_to_a_hundred_characters(api: Api, title: str) -> None:
    """Two calendars may have the same."""
    for calendar in ("a", "b"):
        assert put(api, calendar, title=title).json()["title"] == title


def test_a_calendar_cannot_be_made_if_its_name_differs_only_in_case_from_anothers(api: Api) -> None:
    """As orders can't make such a one."""
    put(api, "crew")
    answer = put(api, "Crew")
    assert faulty_places(answer) == ["#/name"]
    assert "there is a calendar crew" in answer.text


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_a_malformed_name_of_a_calendar_is_400(api: Api, method: str) -> None:
    """Whatever the method."""
    for name in ("a%20b", "-a", "a" * 65, "%C3%BC"):
        assert api.client.request(method, f"/calendars/{name}", json={}).status_code == 400


# --- the rule ----------------------------------------------------------------------------------------


def test_each_calendar_keeps_its_own_spacing(api: Api, database: Database) -> None:
    """Creates, moves and batches; the refusal says which, and the nearest free times follow it."""
    spaced(api, "PT45M", "short")
    spaced(api, "P2D", "long")
    for calendar, spacing, words in (
        ("default", timedelta(hours=3), "three hours"),
        ("short", timedelta(minutes=45), "45 minutes"),
        ("long", timedelta(days=2), "two days"),
    ):
        there = api.placed_order(calendar=calendar)
        near = NOON + spacing - MILLISECOND
        moving = api.placed_order(calendar=f"{calendar}-other", at=near)
        batch = {"orders": [order_body(at=near, calendar=calendar)]}
        refusals = [
            api.place_order(at=near, calendar=calendar).json(),
            api.client.patch(f"/orders/{moving['id']}", json={"calendar": calendar}).json(),
            api.client.put(f"/orders/{moving['id']}", json=order_body(at=near, calendar=calendar)).json(),
            api.client.post("/orders/batch", json=batch).json()["items"][0],
        ]
        for refusal in refusals:
            assert refusal["type"] == "/problems/orders-too-close"
            assert refusal["spacing"] == duration_text(spacing)
            assert f"is less than {words} from order {there['id']}" in refusal["detail"]
            nearest = {"before": text_of(NOON - spacing), "after": text_of(NOON + spacing)}
            assert {
                side: text_of(datetime.fromisoformat(at)) for side, at in refusal["nearest"].items()
            } == nearest
        moved = api.client.patch(
            f"/orders/{moving['id']}",
            json={"calendar": calendar, "datetime": refusals[0]["nearest"]["after"]},
        )
        assert moved.status_code == 200
    assert database.too_close_pairs() == []


def test_a_shorter_spacing_makes_room_at_once(api: Api, database: Database) -> None:
    """The stored orders end earlier. They get no new version, and no change is recorded."""
    order = api.placed_order()
    assert api.place_order(at=later(hours=1)).status_code == 409
    changes = database.value("SELECT count(*) FROM order_change")
    assert patch(api, spacing="PT1H").status_code == 200
    assert database.value("SELECT count(*) FROM order_change") == changes
    answer = api.client.get(f"/orders/{order['id']}")
    assert answer.json() == order
    api.placed_order(at=later(hours=1))
    assert database.value("SELECT max(clear_until - datetime) FROM orders") == timedelta(hours=1)


def test_a_longer_spacing_that_the_orders_keep_holds_from_then_on(api: Api) -> None:
    """Also towards orders that were there before, on both sides."""
    api.placed_order()
    api.placed_order(at=later(days=2))
    assert patch(api, spacing="P2D").status_code == 200
    for at in (later(hours=-47), later(hours=3), later(days=4) - MILLISECOND):
        assert api.place_order(at=at).status_code == 409
    api.placed_order(at=later(days=4))
    api.placed_order(at=later(days=-2))


@pytest.mark.parametrize("send", [put, patch])
def test_a_spacing_that_the_orders_do_not_keep_is_refused_with_each_pair(api: Api, send: Any) -> None:
    """It says the largest that is possible, which then is."""
    orders = [api.placed_order(at=later(hours=hours)) for hours in (0, 4, 7.5, 20)]
    refusal = problem(send(api, spacing="PT4H1S", title="x"), "spacing-too-large")
    places = [{"id": order["id"], "datetime": order["datetime"]} for order in orders]
    assert refusal["pairs"] == [
        {"earlier": places[0], "later": places[1]},
        {"earlier": places[1], "later": places[2]},
    ]
    assert (refusal["spacing"], refusal["largest"]) == ("PT4H1S", "PT3H30M")
    for words in (orders[0]["id"], orders[1]["id"], "four hours and one second", "PT3H30M"):
        assert words in refusal["detail"]
    calendar = api.client.get("/calendars/default").json()
    assert (calendar["spacing"], calendar["title"]) == ("PT3H", "")
    assert send(api, spacing=refusal["largest"]).json()["spacing"] == "PT3H30M"
    assert len(problem(send(api, spacing="PT3H30M1S"), "spacing-too-large")["pairs"]) == 1


def test_a_refused_spacing_names_at_most_a_hundred_pairs(api: Api, database: Database) -> None:
    """The first ones."""
    spaced(api, "PT1M")
    api.placed_order()
    database.rows(
        """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id)
        SELECT $1::timestamptz + n * interval '1 minute', 1, '{123}', '{Inspection}', id
        FROM calendar, generate_series(1, 300) AS n
        """,
        NOON,
    )
    refusal = problem(patch(api, spacing="PT1M1S"), "spacing-too-large")
    assert len(refusal["pairs"]) == 100
    assert refusal["pairs"][0]["earlier"]["datetime"] == "2030-06-01T12:00:00.000Z"
    assert refusal["pairs"][99]["later"]["datetime"] == "2030-06-01T13:40:00.000Z"
    assert refusal["largest"] == "PT1M"


def test_orders_of_one_import_do_not_limit_the_spacing_among_themselves(api: Api, database: Database) -> None:
    """But between them and others it holds, also where another of their import is between."""
    spaced(api, "PT1M")
    number = database.value("SELECT nextval('order_import_id_seq')")
    insert = """
        INSERT INTO orders (datetime, totalfee, service_ids, service_names, calendar_id, import_id)
        SELECT at, 1, '{123}', '{Inspection}', id, $2 FROM calendar, unnest($1::timestamptz[]) AS at
    """
    database.rows(insert, [NOON, later(seconds=1), later(seconds=2), later(hours=1)], number)
    assert patch(api, spacing="P7D").status_code == 200
    assert patch(api, spacing="PT1M").status_code == 200
    there = api.placed_order(at=later(minutes=30))
    refusal = problem(patch(api, spacing="P7D"), "spacing-too-large")
    assert refusal["largest"] == "PT29M58S"
    assert [there["id"] in (p["earlier"]["id"], p["later"]["id"]) for p in refusal["pairs"]] == [True, True]
    assert patch(api, spacing="PT29M58S").status_code == 200
    assert database.too_close_pairs() == []


def test_cancelled_orders_are_not_in_the_way(api: Api, database: Database) -> None:
    """Neither of creates and moves, nor of a spacing, and they name no free time."""
    order = api.placed_order()
    cancelled(database, order)
    for hours in (-2, 2):
        cancelled(database, api.placed_order(at=later(hours=hours)))
    there = api.placed_order(at=later(hours=1))
    refusal = problem(api.place_order(at=later(hours=1)), "orders-too-close")
    assert [conflict["id"] for conflict in refusal["conflicts"]] == [there["id"]]
    assert refusal["nearest"]["before"] == "2030-06-01T10:00:00.000Z"
    assert refusal["nearest"]["after"] == "2030-06-01T16:00:00.000Z"
    moving = api.placed_order(at=later(days=1))
    assert api.client.patch(f"/orders/{moving['id']}", json={"datetime": text_of(later(hours=-2))}).is_success
    assert patch(api, spacing="PT3H").status_code == 200
    assert patch(api, spacing="PT1H").status_code == 200
    assert problem(patch(api, spacing="P7D"), "spacing-too-large")["largest"] == "PT3H"
    wrong = "SELECT id FROM orders WHERE status = 'cancelled' AND clear_until <> datetime"
    assert database.rows(wrong) == []


def test_an_import_keeps_the_spacing_of_each_calendar(api: Api, tmp_path: Path) -> None:
    """Between its orders and those that are stored."""
    spaced(api, "PT20M", "short")
    spaced(api, "P1D", "long")
    for calendar in ("short", "long"):
        api.placed_order(calendar=calendar, id={"short": 1, "long": 2}[calendar])
    near = [
        order_body(calendar="short", at=later(minutes=20) - MILLISECOND),
        order_body(calendar="short", at=later(minutes=20)),
        order_body(calendar="long", at=later(hours=23)),
        order_body(calendar="long", at=later(hours=24)),
    ]
    refused = import_rows(tmp_path, near)
    assert "orders[0].datetime: less than 20 minutes from order 1 at" in refused.stderr
    assert "orders[2].datetime: less than one day from order 2 at" in refused.stderr
    assert "orders[1]" not in refused.stderr
    assert "orders[3]" not in refused.stderr


# --- deleting ----------------------------------------------------------------------------------------


def test_a_calendar_without_orders_can_be_deleted(api: Api) -> None:
    """It is neither shown nor listed then, and a second deletion is 404."""
    put(api, "crew", title="Crew", spacing="PT1H")
    api.placed_order(calendar="other")
    assert delete(api, "crew").status_code == 204
    for answer in (api.client.get("/calendars/crew"), delete(api, "crew"), patch(api, "crew", title="x")):
        assert answer.status_code == 404
    assert [calendar["name"] for calendar in api.every_item("/calendars")] == ["other"]


def test_a_calendar_can_be_deleted_when_its_last_order_is_gone(api: Api, database: Database) -> None:
    """Cancelled orders count; an order that moved away does not."""
    gone, moved, put_off = (api.placed_order(at=later(days=day)) for day in range(3))
    cancelled(database, put_off)
    assert problem(delete(api), "calendar-in-use")["orders"] == 3
    api.client.delete(f"/orders/{gone['id']}")
    assert api.client.patch(f"/orders/{moved['id']}", json={"calendar": "other"}).is_success
    refusal = problem(delete(api), "calendar-in-use")
    assert (refusal["orders"], refusal["detail"]) == (1, "Calendar default has 1 order.")
    api.client.delete(f"/orders/{put_off['id']}")
    assert delete(api).status_code == 204


@pytest.mark.parametrize("way", ["POST", "PUT", "PATCH", "batch", "import", "calendar"])
def test_a_deleted_calendar_that_is_named_again_has_its_defaults(api: Api, tmp_path: Path, way: str) -> None:
    """Whatever names it: an order, a move, a batch, an import or a PUT of the calendar, again 201."""
    moving = api.placed_order(calendar="other")
    put(api, "crew", title="Crew", spacing="P7D")
    assert delete(api, "crew").status_code == 204
    path = f"/orders/{moving['id']}"
    match way:
        case "POST":
            api.placed_order(calendar="crew")
        case "PUT":
            assert api.client.put(path, json=order_body(calendar="crew")).is_success
        case "PATCH":
            assert api.client.patch(path, json={"calendar": "crew"}).is_success
        case "batch":
            assert api.client.post("/orders/batch", json={"orders": [order_body(calendar="crew")]}).is_success
        case "import":
            assert import_rows(tmp_path, [order_body(calendar="crew")]).returncode == 0
        case _:
            assert put(api, "crew").status_code == 201
    calendar = api.client.get("/calendars/crew").json()
    assert (calendar["title"], calendar["spacing"]) == ("", "PT3H")


def test_a_preview_does_not_restore_a_deleted_calendar(api: Api) -> None:
    """A refused order does not either."""
    put(api, "crew")
    delete(api, "crew")
    assert api.client.post("/orders?dry_run=true", json=order_body(calendar="crew")).status_code == 200
    assert api.place_order(calendar="crew", services=(5,)).status_code == 422
    assert api.client.get("/calendars/crew").status_code == 404


def test_a_deleted_calendar_frees_its_name_for_one_in_another_case(api: Api) -> None:
    """Then the old name is taken, for orders and for a PUT, until that one is deleted in turn."""
    put(api, "Crew")
    assert faulty_places(put(api, "crew")) == ["#/name"]
    delete(api, "Crew")
    order = api.placed_order(calendar="crew")
    assert faulty_places(api.place_order(calendar="Crew")) == ["#/calendar"]
    assert faulty_places(put(api, "Crew")) == ["#/name"]
    api.client.delete(f"/orders/{order['id']}")
    assert delete(api, "crew").status_code == 204
    assert put(api, "Crew").status_code == 201
    assert faulty_places(api.place_order(calendar="crew")) == ["#/calendar"]


def test_the_changes_of_a_deleted_calendar_are_still_found_by_its_name(api: Api, database: Database) -> None:
    """In the feed; and its row keeps its id."""
    order = api.placed_order(calendar="crew")
    calendar_id = database.value("SELECT id FROM calendar")
    api.client.delete(f"/orders/{order['id']}")
    delete(api, "crew")
    database.rows("UPDATE order_change SET position = id")
    database.rows("UPDATE change_log SET last_position = 2")
    feed = api.client.get("/order-changes?calendar=crew&after=0").json()["items"]
    assert [change["type"] for change in feed] == ["order.created", "order.deleted"]
    api.placed_order(calendar="crew")
    assert database.value("SELECT id FROM calendar WHERE deleted_at IS NULL") == calendar_id


# --- random spacings ---------------------------------------------------------------------------------


def test_a_random_spacing_is_accepted_exactly_if_all_orders_keep_it(api: Api, database: Database) -> None:
    """The largest that a refusal names is accepted, and a second more is not."""
    seed = random.SystemRandom().randrange(1, 10**9)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(6):
        database.clean()
        database.add_services()
        spaced(api, "PT1M")
        times = sorted(rng.sample(range(60, 14 * 86_400), rng.randint(2, 8)))
        placed = [at for at in times if api.place_order(at=later(seconds=at)).status_code == 201]
        gaps = [after - before for before, after in pairwise(placed)]
        least = min([*gaps, 7 * 86_400])
        for seconds in (60, least, rng.randrange(60, 7 * 86_400), min(7 * 86_400, least + 1), 7 * 86_400):
            answer = patch(api, spacing=f"PT{seconds}S")
            assert answer.status_code == (200 if seconds <= least else 409), (placed, seconds)
            if seconds > least:
                refusal = problem(answer, "spacing-too-large")
                assert refusal["largest"] == duration_text(timedelta(seconds=least))
                assert len(refusal["pairs"]) == sum(gap < seconds for gap in gaps)
            assert database.too_close_pairs() == []


def test_of_many_puts_that_make_one_calendar_one_is_201(api: Api) -> None:
    """The others replace it."""
    answers = at_once([partial(put, api, "new", title=f"t{n}", spacing=f"PT{n + 1}M") for n in range(20)])
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert api.client.get("/calendars/new").json() in [answer.json() for answer in answers]


def test_a_calendar_made_again_is_created_anew(api: Api) -> None:
    """Its ``created_at`` says when, as it was not there before."""
    first = put(api, "crew").json()["created_at"]
    delete(api, "crew")
    again = put(api, "crew").json()["created_at"]
    assert datetime.fromisoformat(first) < datetime.fromisoformat(again) < datetime.now(UTC)

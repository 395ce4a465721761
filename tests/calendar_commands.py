"""Commands about calendars in random histories: what they send, and how answers compare with the model's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hypothesis import event
from hypothesis import strategies as st

from api.http.durations import duration_text, read_duration
from tests.calendar_model import CalendarAnswer, ModelCalendar, PlacedOrder

if TYPE_CHECKING:
    import httpx

    from tests.drivers import Api
    from tests.model import Model


@dataclass(frozen=True)
class PutCalendar:
    """PUT a calendar."""

    name: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class PatchCalendar:
    """PATCH a calendar."""

    name: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class DeleteCalendar:
    """DELETE a calendar."""

    name: str


CalendarCommand = PutCalendar | PatchCalendar | DeleteCalendar

# With "North", an order on "north" may not be able to make its calendar.
_names = st.sampled_from(["default"] * 4 + ["north"] * 3 + ["North", "East.2"])
_titles = st.sampled_from(["", "Halle Süd", "x"])
# Around the grid of the orders' datetimes, and its gaps.
_spacings = st.sampled_from(
    [
        *(timedelta(minutes=minutes) for minutes in (1, 45, 90, 90, 120, 180, 181, 270, 360)),
        *(timedelta(hours=3, seconds=1), timedelta(days=1), timedelta(days=7)),
    ]
)
_puts = st.fixed_dictionaries({}, optional={"title": _titles, "spacing": _spacings})
_patches = st.fixed_dictionaries(
    {}, optional={"title": st.none() | _titles, "spacing": st.none() | _spacings}
)
calendar_commands: st.SearchStrategy[CalendarCommand] = st.one_of(
    st.builds(PutCalendar, _names, _puts),
    *[st.builds(PatchCalendar, _names, _patches.filter(bool))] * 2,
    st.builds(DeleteCalendar, _names),
)


def do_calendar_command(api: Api, model: Model, command: CalendarCommand) -> None:
    """Run a command on the service and on the model, and compare the answers and the calendar."""
    calendars = model.calendars
    placed = [
        PlacedOrder(order.id, order.at, model.import_of(order)) for order in model.booked_on(command.name)
    ]
    path = f"/calendars/{command.name}"
    if isinstance(command, PutCalendar):
        answer = api.client.put(path, json=_body(command.fields))
        expected = calendars.put(command.name, command.fields, placed)
    elif isinstance(command, PatchCalendar):
        answer = api.client.patch(path, json=_body(command.fields))
        expected = calendars.patch(command.name, command.fields, placed)
    else:
        answer = api.client.delete(path)
        orders = sum(order.calendar == command.name for order in model.orders.values())
        expected = calendars.delete(command.name, orders)
    event(f"{type(command).__name__} {expected.status} {expected.problem or ''}")
    _compare(command, answer, expected)
    if answer.status_code in (200, 201):
        assert _as_model(answer.json()) == (command.name, calendars.stored[command.name])
        assert api.client.get(path).json() == answer.json()


def check_calendars(api: Api, model: Model) -> None:
    """Compare the list of calendars."""
    listed = [_as_model(calendar) for calendar in api.every_item("/calendars?limit=2")]
    assert listed == sorted(model.calendars.stored.items(), key=lambda calendar: calendar[0])


def _body(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: duration_text(value) if isinstance(value, timedelta) else value
        for name, value in fields.items()
    }


def _compare(command: CalendarCommand, answer: httpx.Response, expected: CalendarAnswer) -> None:
    assert answer.status_code == expected.status, (command, answer.text, expected)
    if expected.problem is None:
        return
    problem = answer.json()
    assert problem["type"] == f"/problems/{expected.problem}", (command, problem)
    if expected.problem == "spacing-too-large":
        pairs = [(int(pair["earlier"]["id"]), int(pair["later"]["id"])) for pair in problem["pairs"]]
        assert (pairs, read_duration(problem["largest"])) == ([*expected.pairs], expected.largest), command
    if expected.problem == "calendar-in-use":
        assert problem["orders"] == expected.orders


def _as_model(calendar: dict[str, Any]) -> tuple[str, ModelCalendar]:
    return calendar["name"], ModelCalendar(calendar["title"], read_duration(calendar["spacing"]))

"""Names that look the same are the same: of services, and of calendars but for case."""

from __future__ import annotations

import sys
import unicodedata
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import pytest

from api.http.fields import INVISIBLE_CHARACTERS
from api.services.bodies import read_service_name
from tests.builders import later, order_body
from tests.drivers import at_once, faulty_places
from tests.import_steps import import_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Api, Database

SAME = [
    ("Calibration", "CALIBRATION"),
    ("Calibration", "\uff23alibration"),  # full width
    ("Stra\u00dfe", "STRASSE"),
    ("Pr\u00fcfung", "Pru\u0308fung"),  # composed, and not
    ("A B", "A\u00a0B"),
    ("\ufb01lter", "FILTER"),  # a ligature
    (
        "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
        "\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3",
    ),  # a final sigma
    ("\u2460", "1"),
    ("\u01c5", "\u01c4"),
    ("\u0130", "i\u0307"),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=ascii)
def test_two_services_in_use_cannot_have_names_that_differ_only_in_case_or_form(
    api: Api, one: str, other: str
) -> None:
    """On creates and renamings, in either order; an archived one does not count."""
    for first, second in ((one, other), (other, one)):
        service = api.client.post("/services", json={"name": first})
        assert service.status_code == 201
        for answer in (
            api.client.post("/services", json={"name": second}),
            api.client.put("/services/456", json={"name": second}),
        ):
            assert (answer.status_code, answer.json()["type"]) == (409, "/problems/service-name-taken")
        path = f"/services/{service.json()['id']}"
        assert api.client.put(path, json={"name": second}).json()["name"] == second
        assert api.client.delete(path).status_code == 204


def test_of_concurrent_services_with_names_that_look_the_same_one_is_created(api: Api) -> None:
    """The database decides."""
    names = [name for pair in SAME[:2] for name in pair] * 5
    answers = at_once([partial(api.client.post, "/services", json={"name": name}) for name in names])
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\u200bb", "character 2 is U+200B zero width space"),
        ("ab\u200d", "character 3 is U+200D zero width joiner"),
        ("\ufeffab", "character 1 is U+FEFF zero width no-break space"),
        ("a\u202eb", "character 2 is U+202E right-to-left override"),
        ("a\u2066b\u2069", "character 2 is U+2066 left-to-right isolate"),
        ("a\u200eb", "character 2 is U+200E left-to-right mark"),
        ("a\u00adb", "character 2 is U+00AD soft hyphen"),
        ("\u2764\ufe0f", "character 2 is U+FE0F variation selector-16"),
        ("a\u3164b", "character 2 is U+3164 hangul filler"),
        ("a\U000e0041", "character 2 is U+E0041 tag latin capital letter a"),
        ("a\tb", "character 2 is U+0009"),
        ("a\x1bb", "character 2 is U+001B"),
        ("", "must not be blank"),
        ("  ", "must not be blank"),
        ("\u3000", "must not be blank"),
        (" a", "must not begin or end with space"),
    ],
    ids=ascii,
)
def test_a_name_with_characters_that_cannot_be_seen_is_refused(api: Api, name: str, reason: str) -> None:
    """The refusal names the character and its place."""
    for answer in (
        api.client.post("/services", json={"name": name}),
        api.client.put("/services/456", json={"name": name}),
    ):
        assert faulty_places(answer) == ["#/name"]
        assert answer.json()["errors"][0]["detail"].endswith(reason)


def test_python_and_postgresql_refuse_the_same_characters(database: Database) -> None:
    """All that Unicode calls control, format or separator, and no letter or sign."""
    in_sql = {
        row["point"]
        for row in database.rows(
            "SELECT point FROM generate_series(1, 1114111) AS point "
            f"WHERE point NOT BETWEEN 55296 AND 57343 AND chr(point) ~ '[{INVISIBLE_CHARACTERS}]'"
        )
    }
    categories = {"Cc", "Cf", "Zl", "Zp"}
    for point in range(1, sys.maxunicode + 1):
        if 0xD800 <= point <= 0xDFFF:
            continue
        try:
            read_service_name(f"a{chr(point)}b")
            refused = False
        except ValueError:
            refused = True
        assert refused == (point in in_sql), hex(point)
        category = unicodedata.category(chr(point))
        assert refused or category not in categories, hex(point)
        if refused and category not in (*categories, "Cn"):
            assert category in ("Mn", "Lo", "So"), hex(point)


@pytest.mark.parametrize("name", ["a\u200bb", "\u3000", "a\U000e0041"], ids=ascii)
def test_the_database_refuses_such_names_too(database: Database, name: str) -> None:
    """However they are written."""
    with pytest.raises(asyncpg.CheckViolationError):
        database.rows("INSERT INTO service (name) VALUES ($1)", name)


def test_an_imported_service_cannot_have_the_name_of_another(api: Api, tmp_path: Path) -> None:
    """Compared in the same way, with the catalogue and within the file."""
    services = [
        {"id": 7, "name": "\uff29nspection"},
        {"id": 8, "name": "Stra\u00dfe"},
        {"id": 9, "name": "STRASSE"},
    ]
    refused = import_rows(tmp_path, [order_body(services=(7,))], services=services)
    assert refused.returncode == 1
    assert "services[0].name" in refused.stderr
    assert "services[2].name" in refused.stderr
    assert len(api.every_item("/services")) == 3


# --- calendars----------------------------------------------------------------------------------------------


def test_a_calendar_whose_name_differs_only_in_case_cannot_be_made(api: Api, database: Database) -> None:
    """By no request; the refusal names the one that exists."""
    order = api.placed_order(id=5, calendar="crew-7")
    stored = database.everything()
    for answer, place in (
        (api.place_order(calendar="Crew-7", at=later(days=1)), "#/calendar"),
        (api.client.post("/orders?dry_run=true", json=order_body(calendar="CREW-7")), "#/calendar"),
        (api.client.put("/orders/5", json=order | {"calendar": "Crew-7"}), "#/calendar"),
        (api.client.patch("/orders/5", json={"calendar": "Crew-7"}), "#/calendar"),
        (
            api.client.post(
                "/orders/batch",
                json={"orders": [order_body(at=later(days=1)), order_body(calendar="cREW-7")]},
            ),
            "#/orders/1/calendar",
        ),
    ):
        assert faulty_places(answer) == [place]
        assert answer.json()["errors"][0]["detail"] == (
            "there is a calendar crew-7; a name may not differ only in case"
        )
    assert database.everything() == stored


def test_a_batch_cannot_make_two_calendars_whose_names_differ_only_in_case(
    api: Api, database: Database
) -> None:
    """Neither is made."""
    batch = [order_body(calendar=name) for name in ("Crew-1", "crew-1", "crew-2")]
    answer = api.client.post("/orders/batch", json={"orders": batch})
    assert len(faulty_places(answer)) == 1
    assert database.value("SELECT count(*) FROM calendar") == 0


def test_of_concurrent_calendars_whose_names_differ_only_in_case_one_is_made(api: Api) -> None:
    """By single orders and by batches; every order is then on that one."""
    names = ["crew", "Crew", "CREW", "cReW", "creW"] * 4
    bodies = [order_body(calendar=name, at=later(days=day)) for day, name in enumerate(names)]
    single = [partial(api.client.post, "/orders", json=body) for body in bodies[::2]]
    batches = [partial(api.client.post, "/orders/batch", json={"orders": [body]}) for body in bodies[1::2]]
    answers = at_once([*single, *batches])
    assert {answer.status_code for answer in answers} == {201, 422}
    assert len({order["calendar"] for order in api.every_order()}) == 1
    assert len(api.every_item("/calendars")) == 1


def test_an_import_cannot_make_a_calendar_whose_name_differs_only_in_case(api: Api, tmp_path: Path) -> None:
    """Each of its orders on such a calendar is named."""
    api.placed_order(calendar="crew-7")
    refused = import_rows(tmp_path, [order_body(calendar="default"), order_body(calendar="Crew-7")])
    assert refused.returncode == 1
    assert (
        "orders[1].calendar: there is a calendar crew-7; a name may not differ only in case" in refused.stderr
    )


def test_a_filter_reads_the_name_of_a_calendar_in_its_case(api: Api) -> None:
    """Case matters: another case is another name, which no calendar has."""
    api.placed_order(calendar="crew-7")
    assert len(api.every_item("/orders?calendar=crew-7")) == 1
    assert api.every_item("/orders?calendar=Crew-7") == []

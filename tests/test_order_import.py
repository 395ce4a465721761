"""``oms import``: all orders of a file with a history of its own, or none."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from api.orders.errors import ImportRefusedError
from api.orders.imports.commands import import_orders
from api.orders.imports.faults import FaultReport
from api.orders.imports.files import ImportedFile
from api.orders.imports.rows import check_orders
from tests.builders import MILLISECOND, later, order_body
from tests.import_steps import import_rows, imported

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from shared.progress import Progress
    from tests.drivers import Api, Database


def test_orders_of_one_import_may_be_close_together_but_no_other_order_near_them(
    api: Api, database: Database, tmp_path: Path
) -> None:
    """On several calendars, with ids from the file or from the server."""
    anonymous = order_body(at=later(minutes=10), calendar="crew-1")
    done = import_rows(
        tmp_path, [imported(1), imported(2, at=later(hours=1)), imported(3, calendar="crew-1"), anonymous]
    )
    assert done.returncode == 0, done.stderr
    assert [order["id"] for order in api.every_order()] == ["1", "3", "1000000000000000", "2"]
    assert api.place_order(at=later(hours=3)).status_code == 409
    api.placed_order(at=later(hours=4))
    assert database.too_close_pairs() == []


def test_the_first_and_the_last_order_of_a_calendar_are_compared_with_those_before_and_after_them(
    api: Api, tmp_path: Path
) -> None:
    """Also where stored orders are outside of all that the file has on the calendar."""
    api.placed_order(calendar="before")
    api.placed_order(at=later(hours=12), calendar="after")
    api.placed_order(at=later(days=365), calendar="elsewhere")
    far = [
        imported(1, at=later(hours=3), calendar="before"),
        imported(2, at=later(hours=9), calendar="before"),
        imported(3, at=later(hours=3), calendar="after"),
        imported(4, at=later(hours=9), calendar="after"),
        imported(5, calendar="elsewhere"),
        imported(6, calendar="new"),
    ]
    near = [
        imported(1, at=later(hours=3) - MILLISECOND, calendar="before"),
        *far[1:3],
        imported(4, at=later(hours=9) + MILLISECOND, calendar="after"),
        *far[4:],
    ]
    done = import_rows(tmp_path, near)
    assert done.returncode == 1
    *said, conclusion = done.stderr.splitlines()
    assert [line.partition(" from")[0] for line in said] == [
        "orders[0].datetime: less than three hours",
        "orders[3].datetime: less than three hours",
    ]
    assert conclusion == "refused: nothing was imported; bad orders: 2, bad services: 0"
    assert import_rows(tmp_path, far).returncode == 0


def test_an_order_that_is_created_while_an_import_stores_its_own_is_named(
    api: Api,
    database: Database,
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The constraint refuses what the comparison did not see, and the next attempt compares again."""
    monkeypatch.setattr("api.orders.imports.commands.CHUNK", 2)
    api.placed_order(at=later(days=9), calendar="crew-1")
    rows = ((None, imported(n, at=later(hours=n), calendar="crew-1")) for n in range(1, 7))
    faults = FaultReport()
    orders = check_orders(ImportedFile("orders.json", "0" * 64, 6, rows), faults)
    before = database.counts()

    def create_one(progress: Progress) -> None:
        if progress.step == "stored" and len(api.every_order()) == 1:
            api.placed_order(id=7, at=later(hours=8.5), calendar="crew-1")

    with pytest.raises(ImportRefusedError):
        run(import_orders("orders.json", "0" * 64, orders, progress=create_one, faults=faults))
    reason = "less than three hours from order 7 at 2030-06-01T20:30:00.000Z on the same calendar"
    assert list(faults.page()) == [
        f"orders[5].datetime: {reason}",
        "refused: nothing was imported; bad orders: 1, bad services: 0",
    ]
    api.client.delete("/orders/7")
    assert database.counts()["orders"] == before["orders"]


@pytest.mark.usefixtures("api")
def test_orders_of_different_imports_must_be_three_hours_apart(tmp_path: Path) -> None:
    """Only the orders of one file keep the times that they came with."""
    assert import_rows(tmp_path, [imported(1)]).returncode == 0
    done = import_rows(tmp_path, [imported(2, at=later(hours=3)), imported(3, at=later(hours=2))])
    assert done.returncode == 1
    assert "orders[1].datetime: less than three hours from order 1 at 2030-06-01T12:00:00.000Z" in done.stderr
    assert "orders[0]" not in done.stderr
    assert (
        import_rows(tmp_path, [imported(2, at=later(hours=3)), imported(3, at=later(hours=4))]).returncode
        == 0
    )


@pytest.mark.usefixtures("api")
def test_an_empty_file_of_orders_can_be_imported(tmp_path: Path) -> None:
    """Nothing to do is not an error."""
    assert import_rows(tmp_path, []).returncode == 0


def test_thousands_of_orders_are_imported_together(api: Api, tmp_path: Path) -> None:
    """Across the chunks in which they are stored, and each with its change."""
    count = 2_500
    done = import_rows(
        tmp_path, [imported(n, at=later(minutes=n % 7), fee=n / 100) for n in range(1, count + 1)]
    )
    assert done.returncode == 0, done.stderr
    assert f"imported {count:,} orders" in done.stdout
    orders = api.every_item("/orders?sort=id&limit=100")
    assert [int(order["id"]) for order in orders] == list(range(1, count + 1))
    assert [order["totalfee"] for order in orders] == [n / 100 for n in range(1, count + 1)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass between two reads of the clock, and import two orders at a time."""
    monkeypatch.setattr("api.orders.imports.commands.CHUNK", 2)

    def tick(seconds: float) -> None:
        looks = itertools.count(step=seconds)
        monkeypatch.setattr("shared.progress.time", SimpleNamespace(monotonic=looks.__next__))

    return tick


@pytest.mark.usefixtures("api")
def test_a_long_import_shows_its_progress_and_an_estimate(
    clock: Callable[[float], None], tmp_path: Path
) -> None:
    """Time spent before the first order was stored does not count in the estimate."""
    clock(1)
    done = import_rows(tmp_path, [imported(n, at=later(minutes=n)) for n in range(1, 7)], terminal=True)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        *(f"import: {n} of 6 orders checked" for n in range(1, 6)),
        "import: 2 of 6 orders compared with what is stored",
        "import: 4 of 6 orders compared with what is stored",
        "import: 2 of 6 orders stored, about 2 s left",
        "import: 4 of 6 orders stored, about 1 s left",
    ]


@pytest.mark.usefixtures("api")
def test_an_import_prints_at_most_one_line_of_progress_per_second(
    clock: Callable[[float], None], tmp_path: Path
) -> None:
    """Faster steps print no more."""
    clock(0.25)
    done = import_rows(tmp_path, [imported(n, at=later(minutes=n)) for n in range(1, 7)], terminal=True)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "import: 3 of 6 orders checked",
        "import: 2 of 6 orders compared with what is stored",
        "import: 4 of 6 orders stored, about 0 s left",
    ]

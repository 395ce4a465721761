"""A file over HTTP whose orders take too long to store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from api.http.attribution import Attribution
from api.http.media_types import JSON
from api.orders.errors import ImportTooSlowError
from api.orders.imports import uploads
from tests.builders import order_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.drivers import Database


def _import(orders: int, *, is_dry_run: bool = False) -> Any:
    content = json.dumps([order_body(at="2080-01-01T00:00:00Z")] * orders).encode()
    return uploads.import_upload(content, JSON, "near.json", Attribution("anyone"), is_dry_run=is_dry_run)


def test_a_file_that_takes_too_long_stores_nothing_and_the_next_one_is_imported(
    run: Callable[[Any], Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction is rolled back at once, and holds neither calendars nor the turn of the next one."""
    database.add_services()
    with monkeypatch.context() as limit:
        limit.setattr(uploads, "LONGEST_SECONDS", 0.1)
        with pytest.raises(ImportTooSlowError):
            run(_import(8_000))
    counts = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM order_import)"
    assert database.value(counts) == 0
    assert run(_import(3))[1].orders == 3
    assert database.value(counts) == 4


def test_a_dry_run_inserts_no_orders(run: Callable[[Any], Any], database: Database) -> None:
    """Rows that are rolled back would slow down the next run until VACUUM."""
    from shared.database.transaction import roll_back_if

    async def check() -> Any:
        with roll_back_if(is_dry_run=True):
            return await _import(500, is_dry_run=True)

    database.add_services()
    database.run_script("TRUNCATE orders CASCADE")  # gives back the space of an earlier test's rows
    assert run(check())[1].orders == 500
    assert database.value("SELECT pg_relation_size('orders')") == 0

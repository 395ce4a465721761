"""Who changed an order, and why: in the feed, in the order's history and in the log."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.builders import later, order_body
from tests.drivers import wait_until
from tests.import_steps import import_rows, imported
from tests.serving import serving
from tests.steps import assign_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from tests.drivers import Api, Database

    Run = Callable[[Coroutine[Any, Any, Any]], Any]

REASON = "Kundin krank, 2. Termin"
HEADER = {"Change-Reason": quote(REASON)}


def said(api: Api, run: Run) -> list[tuple[str, str | None, str | None]]:
    """Return the type, actor and reason of each change in the feed."""
    run(assign_all())
    items = api.client.get("/order-changes?limit=100").json()["items"]
    return [(item["type"], item.get("actor"), item.get("reason")) for item in items]


def test_every_write_is_attributed_with_its_reason(api: Api, run: Run) -> None:
    """Without API keys the actor is `anyone`."""
    one = api.client.post("/orders", json=order_body(), headers=HEADER).json()["id"]
    batch = {"orders": [order_body(at=later(days=1), id=7)]}
    api.client.post("/orders/batch", json=batch, headers=HEADER)
    api.client.put(f"/orders/{one}", json=order_body(fee=7), headers=HEADER)
    api.client.patch(f"/orders/{one}", json={"totalfee": 8}, headers=HEADER)
    api.client.delete(f"/orders/{one}", headers=HEADER)
    assert said(api, run) == [
        (f"order.{what}", "anyone", REASON)
        for what in ("created", "created", "updated", "updated", "deleted")
    ]
    history = api.client.get(f"/orders/{one}/changes").json()["items"]
    assert {(item["actor"], item["reason"]) for item in history} == {("anyone", REASON)}


def test_writes_of_a_status_and_of_many_orders_are_attributed_too(api: Api, run: Run) -> None:
    """Also those that need a transaction: a move to a new calendar, a deletion of one version."""
    orders = [
        api.client.post("/orders", json=order_body(at=later(days=n), id=n), headers=HEADER) for n in (1, 2)
    ]
    api.client.post("/orders/1/cancel", headers=HEADER)
    api.client.post("/orders/1/reinstate", json={"reason": REASON})
    api.client.patch("/orders/1", json={"calendar": "new"}, headers=HEADER)
    of_both: list[dict[str, Any]] = [{"id": 1}, {"id": 2}]
    changes = {"orders": [{**order, "totalfee": 7, "reference": str(order["id"])} for order in of_both]}
    api.client.patch("/orders/batch", json=changes, headers=HEADER)
    api.client.post("/orders/batch/cancel", json={"orders": of_both, "reason": REASON}, headers=HEADER)
    api.client.delete("/orders/1", headers={**HEADER, "If-Match": "*"})
    api.client.post("/orders/batch/delete", json={"orders": of_both[1:], "reason": REASON})
    assert all(order.status_code == 201 for order in orders)
    done = "created created cancelled reinstated updated updated updated cancelled cancelled deleted deleted"
    assert said(api, run) == [(f"order.{what}", "anyone", REASON) for what in done.split()]


def test_a_reason_that_was_not_given_is_left_out(api: Api, run: Run) -> None:
    """And one request's reason is not the next one's on the same connection."""
    for day in range(20):
        headers = HEADER if day % 2 else {}
        api.client.post("/orders", json=order_body(at=later(days=day)), headers=headers)
    assert said(api, run) == [("order.created", "anyone", REASON if day % 2 else None) for day in range(20)]


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("", "must be a string of 1 to 200 characters"),
        ("x" * 201, "must be a string of 1 to 200 characters"),
        ("%FF", "must be UTF-8, percent-encoded"),
        ("Kunde möchte es so", "must be UTF-8, percent-encoded"),
        ("a%0Ab", "must contain only characters that can be seen; character 2 is U+000A"),
    ],
)
def test_a_reason_that_cannot_be_read_is_refused(
    api: Api, database: Database, line: str, detail: str
) -> None:
    """400 names the header, and nothing is stored."""
    counts = database.counts()
    answer = api.client.post("/orders", json=order_body(), headers=[(b"Change-Reason", line.encode())])
    assert answer.status_code == 400
    (fault,) = answer.json()["errors"]
    assert fault["header"] == "Change-Reason"
    assert detail in fault["detail"] or not line
    assert database.counts() == counts


def test_two_reasons_are_refused(api: Api) -> None:
    """Nobody could say which one counts."""
    twice = [("Change-Reason", "a"), ("Change-Reason", "a")]
    assert api.client.post("/orders", json=order_body(), headers=twice).status_code == 400


def test_the_actor_is_the_name_of_the_key_and_the_feed_can_be_filtered_by_it(
    postgres_url: str, redis_url: str, api: Api, database: Database, run: Run
) -> None:
    """Also what is typed by hand has an actor: the operator."""
    keys = ",".join(f"{name}:write:{sha256(name.encode()).hexdigest()}" for name in ("shop", "office"))
    with serving(database=postgres_url, redis=redis_url, OMS_API_KEYS=keys) as (guarded, process):
        for day, name in enumerate(["shop", "office", "shop"]):
            headers = {"Authorization": f"Bearer {name}", **HEADER}
            body = order_body(at=later(days=day))
            assert guarded.client.post("/orders", json=body, headers=headers).status_code == 201

        def lines_of_orders() -> list[str]:
            return [line for line in process.log.splitlines() if "path=/orders " in line]

        # A line is written when its request has ended, which is after its answer.
        wait_until(lambda: len(lines_of_orders()) == 3, "each request is logged")
        lines = lines_of_orders()
        assert all(f"reason='{REASON}'" in line for line in lines), lines
        assert sum("actor=shop" in line for line in lines) == 2
    database.rows("UPDATE orders SET totalfee = 1, version = version + 1 WHERE datetime = $1", later(days=2))
    assert [actor for _, actor, _ in said(api, run)] == ["shop", "office", "shop", "operator"]
    for actor, positions in (("shop", [1, 3]), ("office", [2]), ("operator", [4]), ("nobody", [])):
        page = api.client.get("/order-changes", params={"actor": actor}).json()
        assert [int(item["sequence"]) for item in page["items"]] == positions


def test_an_operator_can_say_who_and_why(api: Api, database: Database, run: Run) -> None:
    """By the settings that the service itself uses."""
    api.placed_order()
    database.run_script(
        "SET LOCAL oms.actor = 'jane'; SET LOCAL oms.reason = 'wrong fee'; "
        "UPDATE orders SET totalfee = 1, version = version + 1"
    )
    assert said(api, run)[1] == ("order.updated", "jane", "wrong fee")


def test_imported_orders_are_attributed_to_the_import(api: Api, run: Run, tmp_path: Path) -> None:
    """With the reason that the command was given."""
    assert import_rows(tmp_path, [imported(1)], None, "--reason", REASON).returncode == 0
    assert said(api, run) == [("order.created", "import", REASON)]


def test_a_dry_run_says_nothing(api: Api, run: Run) -> None:
    """Nothing was changed."""
    api.client.post("/orders", params={"dry_run": "true"}, json=order_body(), headers=HEADER)
    assert said(api, run) == []


def test_changes_of_an_earlier_release_read_as_they_always_did(
    api: Api, database: Database, run: Run
) -> None:
    """They have no actor, not even null."""
    api.placed_order()
    run(assign_all())
    database.rows("UPDATE order_change SET actor = NULL")
    text = api.client.get("/order-changes").text
    assert "actor" not in text
    (item,) = json.loads(text)["items"]
    assert list(item) == [
        *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "sequence"),
        *("orderversion", "data"),
    ]

"""What `make bench-capacity` makes of its figures; it is run by hand."""

from __future__ import annotations

from typing import Any

from bench.capacity_report import document

_STEP = {"seconds_us": 1_000.0, "postgres_cpu_us": 100.0, "service_cpu_us": 50.0, "wal_records": 1_000.0}
_RESULTS: dict[str, Any] = {
    "bytes_per_order": {"order_change": [400.0, 100.0], "orders": [500.0, 250.0]},
    "steps": {
        name: _STEP | {"wal_pages": 2_000.0}
        for name in ("reference", "create", "update", "cancel", "positions", "summaries")
    },
}


def test_a_day_of_orders_is_computed_from_what_one_order_takes() -> None:
    """A create, an update and a tenth of a cancellation, each with its position and its summaries."""
    row = next(line for line in document(_RESULTS).splitlines() if line.startswith("| 100,000,000 |"))
    a_second = 10**8 / 86_400
    cores = a_second * 2.1 * 3 * 100e-6
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "100,000,000",
        f"{a_second:,.0f}, {5 * a_second:,.0f}",
        f"{cores:.2f}, {5 * cores:.2f}",
        f"{a_second * 2.1 * 50e-6:.2f}, {5 * a_second * 2.1 * 50e-6:.2f}",
        "630 GB, 1.9 TB",
        "14.4 TB",
        "27.4 TB",
        "0.082, 0.082",
    ]


def test_what_one_order_takes_is_compared_with_a_bare_row() -> None:
    assert "| create | 100 | 1.0 | 50 | 10,000 | 1,000 | 1,000 | 2,000 |" in document(_RESULTS)
    assert "| `orders` | 500 | 250 |" in document(_RESULTS)


def test_one_primary_ends_at_what_ends_first() -> None:
    """A thousand changes a second, of which an order has 2.1 and the peak has five times as many."""
    ends = document(_RESULTS).rpartition("\n\n")[2]
    assert "| the relay's positions, one relay at a time | 8 |" in ends
    assert f"| PostgreSQL on 32 cores | {32 / (2.1 * 3 * 100e-6) / 5 * 86_400 / 1e6:,.0f} |" in ends

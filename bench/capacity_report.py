"""What ``make bench-capacity`` prints: the tables of docs/scaling.md, and what they mean for orders a day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    _Steps = Mapping[str, Mapping[str, float]]

CHANGES = {"create": 1.0, "update": 1.0, "cancel": 0.1}
"""How often an order is created, updated and cancelled, in the tables of orders a day."""

PEAK = 5
"""How many times as much as on average is to be done in the busiest hour."""

ORDERS_A_DAY = (10**6, 10**7, 10**8, 10**9)
CHANGE_DAYS = 90
"""The default of OMS_CHANGE_RETENTION."""

ORDER_DAYS = 365
"""How long orders are assumed to be kept."""

CORES = 32
"""Of a large server, of which PostgreSQL has all."""

_DAY_SECONDS = 86_400
_LABELS = {
    "reference": "bare row, inserted (reference)",
    "create": "create",
    "update": "update",
    "cancel": "cancel",
    "positions": "position of one change (relay)",
    "summaries": "summaries of one change (worker)",
}
_COSTS = """\
| one | PostgreSQL, µs of CPU | ratio | service, µs of CPU | a second per core of PostgreSQL | seen a second \
| WAL: bytes of records | of page images |"""
_DAYS = f"""\
| orders a day | a second: average, peak ({PEAK} times) | PostgreSQL's cores | APIs' cores \
| WAL a day: records, at most with page images | {CHANGE_DAYS} days of changes | {ORDER_DAYS} days of orders \
| headroom at peak: one relay, one worker |"""


def document(results: Mapping[str, Any]) -> str:
    """Return all tables in Markdown, as docs/scaling.md has them."""
    return "\n\n".join((costs(results), sizes(results), days(results), ends(results)))


def costs(results: Mapping[str, Any]) -> str:
    """Return what each step takes: processors' time, the rate of one core, bytes of WAL."""
    steps: _Steps = results["steps"]
    reference = steps["reference"]["postgres_cpu_us"]
    lines = [
        _COSTS,
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, label in _LABELS.items():
        step = steps[name]
        of_postgres, of_service = step["postgres_cpu_us"], step["service_cpu_us"]
        lines.append(
            f"| {label} | {of_postgres:.0f} | {of_postgres / reference:.1f} | {of_service:.0f} |"
            f" {1e6 / of_postgres:,.0f} | {1e6 / step['seconds_us']:,.0f} |"
            f" {step['wal_records']:,.0f} | {step['wal_pages']:,.0f} |"
        )
    return "\n".join(lines)


def sizes(results: Mapping[str, Any]) -> str:
    """Return what a million orders, and a million changes, take on disk."""
    lines = ["| table | MB per million orders | MB of its indexes |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {heap:,.0f} | {indexes:,.0f} |"
        for name, (heap, indexes) in results["bytes_per_order"].items()
    ]
    return "\n".join(lines)


def days(results: Mapping[str, Any]) -> str:
    """Return what numbers of orders a day mean."""
    steps: _Steps = results["steps"]
    changes = sum(CHANGES.values())
    cpu = _of_an_order(steps, "postgres_cpu_us") / 1e6
    api = sum(often * steps[name]["service_cpu_us"] for name, often in CHANGES.items()) / 1e6
    records, pages = (_of_an_order(steps, name) for name in ("wal_records", "wal_pages"))
    per_order = results["bytes_per_order"]
    of_change = sum(per_order["order_change"])
    # An update and a cancellation store two states, a creation one.
    of_changes = of_change * (1 + 2 * (changes - 1))
    of_order = sum(sum(each) for name, each in per_order.items() if name != "order_change")
    lines = [
        _DAYS,
        "|---|---|---|---|---|---|---|---|",
    ]
    for orders in ORDERS_A_DAY:
        rate = orders / _DAY_SECONDS
        headroom = (
            1e6 / steps[name]["seconds_us"] / (rate * PEAK * changes) for name in ("positions", "summaries")
        )
        cells = (
            f"{orders:,}",
            f"{rate:,.0f}, {rate * PEAK:,.0f}",
            f"{rate * cpu:,.2f}, {rate * PEAK * cpu:,.2f}",
            f"{rate * api:,.2f}, {rate * PEAK * api:,.2f}",
            f"{_size(orders * records)}, {_size(orders * (records + pages))}",
            _size(orders * CHANGE_DAYS * of_changes),
            _size(orders * ORDER_DAYS * of_order),
            ", ".join(f"{each:,.2g}" if each < 100 else f"{each:,.0f}" for each in headroom),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ends(results: Mapping[str, Any]) -> str:
    """Return at how many orders a day one primary ends, by what ends first."""
    steps: _Steps = results["steps"]
    changes = sum(CHANGES.values())
    most = {
        "the worker's summaries, one task at a time": 1e6 / steps["summaries"]["seconds_us"] / changes,
        "the relay's positions, one relay at a time": 1e6 / steps["positions"]["seconds_us"] / changes,
        f"PostgreSQL on {CORES} cores": CORES * 1e6 / _of_an_order(steps, "postgres_cpu_us"),
    }
    lines = [f"| keeps up with the peak of {PEAK} times | million orders a day |", "|---|---|"]
    lines += [
        f"| {name} | {rate / PEAK * _DAY_SECONDS / 1e6:,.0f} |"
        for name, rate in sorted(most.items(), key=lambda each: each[1])
    ]
    return "\n".join(lines)


def _of_an_order(steps: _Steps, name: str) -> float:
    """Return what all changes of one order take, with their positions and summaries."""
    of_each = steps["positions"][name] + steps["summaries"][name]
    return sum(often * (steps[change][name] + of_each) for change, often in CHANGES.items())


def _size(size: float) -> str:
    for unit in ("MB", "GB"):
        size /= 1e3 if unit == "GB" else 1e6
        if size < 1_000:
            return f"{size:,.0f} {unit}"
    return f"{size / 1e3:,.1f} TB"

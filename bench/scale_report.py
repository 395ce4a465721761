"""What ``make bench-scale`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

GOAL = 1.2
"""How many times as slow a request may be with more orders."""


def table(results: Mapping[str, Any]) -> str:
    """Return all results in Markdown."""
    small, large = results["orders"]
    lines = [
        f"| ms per request | {small:,} orders | {large:,} orders | ratio | ratio of CPU |",
        "|---|---|---|---|---|",
    ]
    for work, each in results["works"].items():
        ms = " | ".join(f"{value:.3f}" for value in each["ms"])
        lines.append(f"| {work} | {ms} | {each['ratio']:.2f} | {each['cpu_ratio']:.2f} |")
    export, memory = results["export"], results["memory"]
    of_api = ", ".join(f"{when} {export[f'api_{when}_mb']:.0f} MB" for when in ("before", "peak", "after"))
    rate = export["orders_per_second"]
    lines += [
        "",
        f"Export: {export['orders']:,} orders, {export['mb']:,} MB, {rate:,} orders per second",
        f"Memory of the API's process: {of_api}",
        "",
        f"| MB | start | after {memory['settled_after']:,} | after {memory['operations']:,} | peak |",
        "|---|---|---|---|---|",
    ]
    for name, each in memory["processes"].items():
        mb = " | ".join(f"{each[f'{when}_mb']:.0f}" for when in ("start", "settled", "end", "peak"))
        lines.append(f"| {name} | {mb} |")
    return "\n".join(lines)

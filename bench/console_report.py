"""What ``make bench-console`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

GOAL_MS = 300
"""How soon 95% of the changes are to be on each open page."""

_PLACES = {"streams": "{streams} connections", "pages": "pages in Chromium (in the document)"}
_ENDS = {"stopped": "stopped (SIGTERM)", "killed": "killed (SIGKILL)"}


def table(results: Mapping[str, Any]) -> str:
    """Return all results in Markdown."""
    lines = [
        f"Load average before: {results['machine']['load_before']}, on {results['machine']['cores']} cores.",
        "",
        f"| commit to open page, ms | events | p50 | p95 | p99 | largest | p95 ≤ {GOAL_MS} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in results["latency"].items():
        figures = " | ".join(f"{each[f'{key}_ms']:.0f}" for key in ("p50", "p95", "p99", "max"))
        is_met = "met" if each["p95_ms"] <= GOAL_MS else "missed"
        place = _PLACES[name].format(streams=results["streams"])
        lines.append(f"| {place} | {each['events']:,} | {figures} | {is_met} |")
    lines += [
        "",
        f"Each of {results['changes']:,} changes arrived at each of them once and in order.",
        "",
        "| API, seconds from its end | ready again | all connections open again |",
        "|---|---|---|",
    ]
    lines += [
        f"| {_ENDS[name]} | {each['ready_seconds']:.1f} | {each['all_back_seconds']:.1f} |"
        for name, each in results["restarts"].items()
    ]
    if "memory" in results:
        lines += [
            "",
            "| a page left open, after changes | heap, MB | nodes | event listeners |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {int(changes):,} | {each['heap_mb']:.2f} | {each['nodes']:,} | {each['listeners']:,} |"
            for changes, each in results["memory"].items()
        ]
        *_, half, end = results["memory"].values()
        lines += ["", f"The second half added {(end['heap_mb'] - half['heap_mb']) * 1024:.0f} KB of heap."]
    return "\n".join(lines)

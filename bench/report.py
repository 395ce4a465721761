"""What a benchmark writes: a table in Markdown and a plot in SVG."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from bench.figures import spread
from bench.goals import CREATE, GET, LIST, OURS, PIPELINE_GOALS, WORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Results = Mapping[str, Any]
    """What ``bench/results/latest.json`` holds; ``bench/main.py`` writes it."""

_NAMES, _BAR, _FIGURES, _LINE = 250, 420, 90, 22
_COLOURS = {True: "#2a7", False: "#89a"}


def table(results: Results) -> str:
    """Return all results in Markdown."""
    lines = [
        "# Results of `make bench`",
        "",
        _conditions(results),
        "",
        "## Requests per second",
        "",
        "The median; in brackets (largest - smallest) / median.",
        "",
        f"| | {' | '.join(WORKS)} |",
        f"|---|{'---|' * len(WORKS)}",
    ]
    for name, by_work in results["rates"].items():
        cells = [_rate(by_work[work]["rates"]) if work in by_work else "" for work in WORKS]
        lines.append(f"| {'**' + name + '**' if name == OURS else name} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Ratios",
        "",
        "The median of the rounds' ratios.",
        "",
        "| | ratio | goal | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {each['ratio']:.2f} | {each['goal']:g} | {_mark(each['ratio'] >= each['goal'])} |"
        for name, each in results["ratios"].items()
    ]
    lines += ["", "## CPU per request", "", "Milliseconds, medians.", ""]
    lines += [
        "| | work | PostgreSQL | server processes | load generator | generator's share |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        _cpu_line(name, work, measured)
        for name, by_work in results["rates"].items()
        for work, measured in by_work.items()
    ]
    if results["once"]:
        lines += ["", "## This service, beyond requests", "", "| | measured | goal | |", "|---|---|---|---|"]
        lines += [_once_line(key, results["once"]) for key in PIPELINE_GOALS if key in results["once"]]
        lines += ["", _once_conditions(results["once"])]
    return "\n".join([*lines, *(f"\n{note}" for note in results["notes"]), ""])


def _conditions(results: Results) -> str:
    machine = results["machine"]
    return f"""\
Measured {results["at"]} at `{results["commit"]}`, on {machine["cores"]} cores ({machine["processor"]}) with
{machine["memory_gb"]} GB and Python {machine["python"]}. A sync to disk takes {machine["sync_ms"]} ms; the
load average was {machine["load_before"]:.1f} before. Load: {results["generator"]} on the same cores,
{results["connections"]} connections. Each contestant has {results["processes"]} server processes, and a
database on one PostgreSQL with `fsync` and `synchronous_commit` on. {results["rounds"]} interleaved rounds of
{results["seconds"]} s. Peers answer a refused create with 409 alone; this service names the conflicts and the
nearest free times. It logs every request, and the peers none."""


def _once_conditions(once: Mapping[str, float]) -> str:
    idle = ", ".join(
        f"{name} {once[f'idle_{key}_percent']:.1f}%"
        for name, key in (
            ("relay", "relay"),
            ("worker", "worker"),
            ("API", "api"),
            ("PostgreSQL", "postgres"),
        )
    )
    return f"""\
Half load is {once["half_load_per_second"]:,.0f} creates/s, {once["visible_changes"]:,.0f} changes. The
backlog was {once["backlog_changes"]:,.0f} changes. While idle, of a core: {idle}."""


def _rate(rates: Sequence[float]) -> str:
    return f"{statistics.median(rates):,.0f} ({spread(rates):.0%})"


def _mark(is_met: bool) -> str:  # noqa: FBT001 - reads well as its only argument
    return "met" if is_met else "missed"


def _cpu_line(name: str, work: str, measured: Mapping[str, Sequence[float]]) -> str:
    postgres, server, generator = (
        statistics.median(measured[key]) for key in ("postgres_cpu", "server_cpu", "generator_cpu")
    )
    share = generator / (postgres + server + generator) if generator else 0.0
    return f"| {name} | {work} | {postgres:.3f} | {server:.3f} | {generator:.3f} | {share:.0%} |"


def _once_line(key: str, once: Mapping[str, float]) -> str:
    meaning, unit, comparison, goal = PIPELINE_GOALS[key]
    value = f"{once[key]:,.0f}" if once[key] >= 100 else f"{once[key]:.1f}"
    if goal is None:
        return f"| {meaning} | {value} {unit} | | |"
    is_met = once[key] <= goal if comparison == "≤" else once[key] >= goal
    return f"| {meaning} | {value} {unit} | {comparison} {goal:,} {unit} | {_mark(is_met)} |"


def plot(results: Results) -> str:
    """Return bars of the rates of create, get and list, each work with a scale of its own, as SVG."""
    parts: list[str] = []
    y = 0
    for work in (CREATE, GET, LIST):
        rates = {
            name: by_work[work]["rates"] for name, by_work in results["rates"].items() if work in by_work
        }
        y += 28
        parts.append(f'<text x="0" y="{y}" font-weight="bold">{escape(work)}, requests per second</text>')
        y += 8
        largest = max((max(values) for values in rates.values()), default=1.0)
        for name, values in sorted(rates.items(), key=lambda item: -statistics.median(item[1])):
            parts.append(_bar(name, values, largest, y))
            y += _LINE
    width, height = _NAMES + _BAR + _FIGURES, y + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
            f' viewBox="-8 0 {width} {height}" font-family="sans-serif" font-size="13">',
            f'<rect x="-8" width="{width}" height="{height}" fill="#fff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _bar(name: str, values: Sequence[float], largest: float, y: int) -> str:
    """Draw the median as a bar, and a line from the smallest to the largest value."""
    low, middle, high = (
        value / largest * _BAR for value in (min(values), statistics.median(values), max(values))
    )
    text = f"{statistics.median(values):,.0f}"
    line_y = y + _LINE // 2
    return (
        f'<text x="0" y="{y + 15}">{escape(name)}</text>'
        f'<rect x="{_NAMES}" y="{y + 3}" width="{max(1, math.ceil(middle))}" height="{_LINE - 6}" '
        f'fill="{_COLOURS[name == OURS]}"/>'
        f'<line x1="{_NAMES + low:.0f}" x2="{_NAMES + high:.0f}" y1="{line_y}" y2="{line_y}" stroke="#333"/>'
        f'<text x="{_NAMES + max(middle, high) + 6:.0f}" y="{y + 15}">{text}</text>'
    )

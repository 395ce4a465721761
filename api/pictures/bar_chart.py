"""A chart of stacked bars over a time axis. Pure.

pygal computes where bars, lines and labels are; its tree is read for that, and nothing else of it is kept: it
has scripts, a style sheet and today's date. The first chart imports pygal, since most processes draw none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from api.pictures.svg import ACCENT, BACKGROUND, FONT, INK, LINE, MUTED, element, shorten, text, title

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

WIDTH = 960.0
MOST_SERIES = 8
MOST_PERIODS = 240
MOST_PARTS = 900
"""Parts of all bars: each is some 90 bytes."""

_COLOURS = (ACCENT, "#0e9f8e", "#e08a00", "#d6336c", "#2f80ed", "#7c9a00", "#a855f7", "#b45309")
_COLOUR_OF_OTHERS = "#9aa5b5"

_EDGE = 24.0
_PLOT_HEIGHT = 300
_WIDEST_BAR = 44.0
_MOST_LABELS = 10
_LEGEND_COLUMNS = 4
_LONGEST_NAME = 28
_LONGEST_LINE = 150


@dataclass(frozen=True)
class Series:
    """What has one colour: its name, and its amounts by period. Periods without an amount have no bar."""

    name: str
    amounts: Mapping[str, Decimal]
    is_others: bool = False
    """Whether it is all but the largest series together."""


@dataclass(frozen=True)
class BarChart:
    """What the picture shows."""

    heading: str
    details: Sequence[str]
    """Lines below the heading."""
    periods: Sequence[str]
    """All periods of the axis, without a gap, as they are named."""
    series: Sequence[Series]
    """The largest first: it is drawn at the bottom."""
    notes: Sequence[str]
    """Lines below the axis."""
    empty: str
    """What is said where there is no bar to be drawn."""
    data: Mapping[str, object] = field(default_factory=dict)
    """``data-`` attributes of the picture."""


def draw(chart: BarChart) -> bytes:
    """Return the picture in SVG: the same bytes for the same chart."""
    y = 34.0
    heading = text(shorten(chart.heading, 100), class_="heading", x=_EDGE, y=y, font_size=18, font_weight=600)
    lines = []
    for line in chart.details:
        y += 21
        lines.append(
            text(shorten(line, _LONGEST_LINE), class_="detail", x=_EDGE, y=y, fill=MUTED, font_size=13)
        )
    y += 16
    legend = ""
    if any(series.name for series in chart.series):
        legend, y = _legend(chart.series, y)
    y += 12
    has_bars = any(amount > 0 for series in chart.series for amount in series.amounts.values())
    plot = _plot(chart, y) if has_bars else _message(chart.empty, y)
    y += _PLOT_HEIGHT + 14
    for line in chart.notes:
        y += 19
        lines.append(
            text(shorten(line, _LONGEST_LINE), class_="note", x=_EDGE, y=y, fill=MUTED, font_size=12)
        )
    height = y + 18
    picture = element(
        "svg",
        element("rect", width=WIDTH, height=height, fill=BACKGROUND)
        + heading
        + "".join(lines)
        + legend
        + plot,
        xmlns="http://www.w3.org/2000/svg",
        class_="chart",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        width=WIDTH,
        height=height,
        role="img",
        aria_label=". ".join((chart.heading, *chart.details, *chart.notes)),
        font_family=FONT,
        font_size=12,
        fill=INK,
        **{f"data_{name}": value for name, value in chart.data.items()},
    )
    return picture.encode()


def _colour(number: int, series: Series) -> str:
    return _COLOUR_OF_OTHERS if series.is_others else _COLOURS[number % len(_COLOURS)]


def _legend(series: Sequence[Series], y: float) -> tuple[str, float]:
    """Write what the colours mean; return it, and where it ends."""
    written = []
    for number, one in enumerate(series):
        row, column = divmod(number, _LEGEND_COLUMNS)
        left = _EDGE + column * (WIDTH - 2 * _EDGE) / _LEGEND_COLUMNS
        top = y + row * 20
        written += [
            element("rect", x=left, y=top, width=11, height=11, rx=2, fill=_colour(number, one)),
            text(shorten(one.name, _LONGEST_NAME), x=left + 17, y=top + 10),
        ]
    rows = (len(series) + _LEGEND_COLUMNS - 1) // _LEGEND_COLUMNS
    return element("g", "".join(written), class_="legend"), y + rows * 20


def _message(message: str, y: float) -> str:
    middle = y + _PLOT_HEIGHT / 2
    frame = element(
        "rect", x=_EDGE, y=y, width=WIDTH - 2 * _EDGE, height=_PLOT_HEIGHT, rx=8, fill="none", stroke=LINE
    )
    return frame + text(
        message, class_="empty", x=WIDTH / 2, y=middle, fill=MUTED, font_size=15, text_anchor="middle"
    )


def _plot(chart: BarChart, y: float) -> str:
    plot = _plotted(chart)
    # As in "translate(34, 0)": pygal makes room for the labels of amounts.
    left = float(plot.get("transform", "").removeprefix("translate(").split(",")[0])
    return element(
        "g",
        "".join((*_amount_lines(plot), *_period_labels(plot), *_bars(plot, chart))),
        class_="plot",
        transform=f"translate({_EDGE + left:g} {y:g})",
    )


def _plotted(chart: BarChart) -> Element:
    """Return the element of pygal's tree that has axes and bars."""
    from pygal import StackedBar  # type: ignore[import-untyped]  # it has no types

    step = -(-len(chart.periods) // _MOST_LABELS)
    graph = StackedBar(
        no_prefix=True,
        width=int(WIDTH - 2 * _EDGE),
        height=_PLOT_HEIGHT,
        margin=0,
        show_legend=False,
        x_labels=list(chart.periods),
        x_labels_major=list(chart.periods[::step]),
        show_minor_x_labels=False,
        truncate_label=-1,
        max_scale=7,
        value_formatter=_show_amount,
    )
    for series in chart.series:
        graph.add("", [float(series.amounts.get(period, 0)) for period in chart.periods])
    tree: Element = graph.render_tree()
    return next(_with_class(tree, "g", "plot"))


def _show_amount(amount: float) -> str:
    return f"{amount:,.2f}".removesuffix(".00")


def _with_class(parent: Element, name: str, class_: str) -> Iterator[Any]:
    return (node for node in parent.iter(name) if class_ in node.get("class", "").split())


def _amount_lines(plot: Element) -> Iterator[str]:
    axis = next(_with_class(plot, "g", "y"))
    for guide in _with_class(axis, "g", "guides"):
        line, label = guide.find("path"), guide.find("text")
        if line is not None and label is not None:
            # As in "M0.000000 274.615385 h926.000000".
            _, height, width = line.get("d", "").split()
            y = float(height)
            yield element("path", d=f"M0 {y:.1f}h{float(width[1:]):.1f}", stroke=LINE)
            yield text(label.text or "", x=-8, y=y + 4, fill=MUTED, text_anchor="end")


def _period_labels(plot: Element) -> Iterator[str]:
    axis = next(_with_class(plot, "g", "x"))
    for guide in _with_class(axis, "g", "guides"):
        label = guide.find("text")
        if label is not None:
            x, y = float(label.get("x", "0")), float(label.get("y", "0"))
            yield text(label.text or "", x=x, y=y + 2, fill=MUTED, text_anchor="middle")


def _bars(plot: Element, chart: BarChart) -> Iterator[str]:
    """Write each part of each bar, its exact amount as title; pygal has one for each period, even of 0."""
    nodes = _with_class(plot, "g", "series")
    for number, (node, series) in enumerate(zip(nodes, chart.series, strict=True)):
        parts = [
            _part(rect, f"{period}: {amount:,.2f}")
            for rect, period in zip(_with_class(node, "rect", "rect"), chart.periods, strict=True)
            if (amount := series.amounts.get(period))
        ]
        label = shorten(series.name, _LONGEST_NAME) or None
        yield element("g", "".join(parts), class_="series", aria_label=label, fill=_colour(number, series))


def _part(rect: Element, label: str) -> str:
    x, y, width, height = (float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
    drawn = min(width, _WIDEST_BAR)
    return element("rect", title(label), x=x + (width - drawn) / 2, y=y, width=drawn, height=max(height, 0.5))

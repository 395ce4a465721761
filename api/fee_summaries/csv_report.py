"""A whole report as CSV. Each line has the position that it is exact for, so that a saved file shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.fee_summaries.positions import ReadAsOf
from api.fee_summaries.reports import ReportQuery, ReportRow, Totals, item_figures, total_figures
from api.http.csv_text import csv_lines
from api.http.times import utc_text
from shared.database.statements import read_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from api.fee_summaries.figures_request import FiguresRequest

FIGURES = ("orders", "totalfee", "averagefee", "minfee", "maxfee")
CSV_HEAD = csv_lines(
    [("period", "service_id", "service_name", "calendar", *FIGURES, "position", "time", "time_zone")]
)


class CsvReport:
    """Writes the records of a report's statement, which returns the totals first; the file has them last."""

    def __init__(self, query: ReportQuery, figures: FiguresRequest[Any]) -> None:
        self._query = query
        self._figures = figures
        self._totals: Totals | None = None

    def lines(self, records: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the lines of some records, in the order of the statement.

        Raises:
            ReportExpiredError, ReportTooLargeError: the report can't be returned; only for the first records.

        """
        if self._totals is None:
            self._figures.check(read_row(ReadAsOf, records[0]))
            self._totals = read_row(Totals, records[0])
            self._query.check_size(self._totals)
            records = records[1:]
        rows = [read_row(ReportRow, record) for record in records]
        return csv_lines(
            self._cells(
                [
                    row.period.isoformat(),
                    str(row.service_id) if row.service_id else None,
                    row.service,
                    row.calendar or None,
                ],
                item_figures(self._query, row),
            )
            for row in rows
        )

    def total_line(self) -> bytes:
        """Return the line of the totals, the last one of the file."""
        if self._totals is None:
            return b""
        figures = total_figures(self._query, self._totals)
        return csv_lines([self._cells(["total", None, None, None], figures)])

    def _cells(self, names: list[object], figures: Mapping[str, object]) -> list[object]:
        as_of = self._figures.as_of
        return [
            *names,
            *(figures[name] for name in FIGURES),
            as_of.position,
            utc_text(as_of.moved_at),
            as_of.time_zone,
        ]
